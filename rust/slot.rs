// SPDX-License-Identifier: GPL-2.0

//! A pointer that many use at a time, until it is taken back.
//!
//! As `kernel::revocable`, for users that sleep: by SRCU, so that users share no cache line and
//! whoever takes the pointer back sleeps. `kernel::sync::Srcu` cannot be in a `static`.

use crate::ffi;
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full, //
    },
    types::NotThreadSafe, //
};

/// A place for a pointer. To be put into a `static`.
pub(crate) struct Slot<T> {
    /// Null while there is none.
    ptr: Atomic<*mut T>,
}

// SAFETY: The slot itself is an atomic word; what may be done with the pointer is up to those who
// dereference it.
unsafe impl<T> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// Empty.
    pub(crate) const fn new() -> Self {
        Self {
            ptr: Atomic::new(core::ptr::null_mut()),
        }
    }

    /// Where the pointer is, for C to fill an empty slot.
    pub(crate) fn as_ptr(&self) -> *mut *mut T {
        self.ptr.as_ptr()
    }

    /// Fills the slot. `EBUSY`: it is not empty.
    pub(crate) fn set(&self, ptr: *mut T) -> Result {
        self.ptr
            .cmpxchg(core::ptr::null_mut(), ptr, Full)
            .map(|_| ())
            .map_err(|_| EBUSY)
    }

    /// The pointer, which stays in use until the result is dropped; `None` if the slot is empty.
    pub(crate) fn get(&self) -> Option<InUse<T>> {
        let mut in_use = InUse {
            // SAFETY: Dropping the object ends the read side.
            index: unsafe { ffi::privmemfd_helper_slots_read_lock() },
            ptr: core::ptr::null_mut(),
            _task: NotThreadSafe,
        };
        // Inside the read side: take() waits for whoever does not see null.
        in_use.ptr = self.ptr.load(Acquire);
        (!in_use.ptr.is_null()).then_some(in_use)
    }

    /// Empties the slot and waits until nobody uses the pointer any more. May sleep.
    pub(crate) fn take(&self) -> *mut T {
        let ptr = self.ptr.xchg(core::ptr::null_mut(), Full);
        // SAFETY: Process context, not in a read side: nobody who has an `InUse` calls this.
        unsafe { ffi::privmemfd_helper_slots_synchronize() };
        ptr
    }
}

/// A pointer in use, by the task that has asked for it.
pub(crate) struct InUse<T> {
    ptr: *mut T,
    index: i32,
    _task: NotThreadSafe,
}

impl<T> InUse<T> {
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.ptr
    }
}

impl<T> Drop for InUse<T> {
    fn drop(&mut self) {
        // SAFETY: The index is that of this object's read side, in the same task.
        unsafe { ffi::privmemfd_helper_slots_read_unlock(self.index) }
    }
}
