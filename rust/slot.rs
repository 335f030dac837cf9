// SPDX-License-Identifier: GPL-2.0

//! A pointer that many use at a time, until it is taken back.
//!
//! As `kernel::revocable`, for users that sleep.

use crate::mm::cond_resched;
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Release, //
    }, //
};

/// A place for a pointer. To be put into a `static`.
pub(crate) struct Slot<T> {
    /// Null while there is none.
    ptr: Atomic<*mut T>,
    /// Tasks that may be about to use it.
    users: Atomic<i32>,
}

// SAFETY: The slot itself is two atomic words; what may be done with the pointer is up to those
// who dereference it.
unsafe impl<T> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// Empty.
    pub(crate) const fn new() -> Self {
        Self {
            ptr: Atomic::new(core::ptr::null_mut()),
            users: Atomic::new(0),
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
    pub(crate) fn get(&self) -> Option<InUse<'_, T>> {
        // Fully ordered, as is take(): either this user is seen there, or null here.
        let _ = self.users.fetch_add(1, Full);
        let in_use = InUse {
            slot: self,
            ptr: self.ptr.load(Acquire),
        };
        (!in_use.ptr.is_null()).then_some(in_use)
    }

    /// Empties the slot and waits until nobody uses the pointer any more. May sleep.
    pub(crate) fn take(&self) -> *mut T {
        let ptr = self.ptr.xchg(core::ptr::null_mut(), Full);
        while self.users.load(Acquire) != 0 {
            cond_resched();
        }
        ptr
    }
}

/// A pointer in use.
pub(crate) struct InUse<'a, T> {
    slot: &'a Slot<T>,
    ptr: *mut T,
}

impl<T> InUse<'_, T> {
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.ptr
    }
}

impl<T> Drop for InUse<'_, T> {
    fn drop(&mut self) {
        let _ = self.slot.users.fetch_add(-1, Release);
    }
}
