// SPDX-License-Identifier: GPL-2.0

//! A work queue that belongs to the module.
//!
//! Work on a queue of the system may still run when the module's code is gone, since nothing waits
//! for its last instructions. A [`ModuleQueue`] is emptied before the module goes.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use kernel::{
    alloc::AllocError,
    bindings,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    },
    workqueue::Queue, //
};

/// A work queue. To be put into a `static`.
pub struct ModuleQueue(Atomic<*mut bindings::workqueue_struct>);

impl Default for ModuleQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl ModuleQueue {
    /// No queue yet.
    pub const fn new() -> Self {
        Self(Atomic::new(core::ptr::null_mut()))
    }

    /// Makes the queue, until the returned object is dropped. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn start(&'static self, name: &'static CStr) -> Result<Started> {
        // SAFETY: The format takes one string, which is given.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND,
                0,
                name.as_char_ptr(),
            )
        };
        if queue.is_null() {
            return Err(ENOMEM);
        }
        self.0.store(queue, Release);
        Ok(Started(self))
    }

    /// Runs `f` soon, in process context. Allocates with `flags`.
    ///
    /// # Errors
    ///
    /// No memory, or the queue is not started: `f` has not run and never will.
    pub fn spawn<F: FnOnce() + Send + 'static>(
        &self,
        flags: kernel::alloc::Flags,
        f: F,
    ) -> Result<(), AllocError> {
        let queue = self.0.load(Acquire);
        if queue.is_null() {
            return Err(AllocError);
        }
        // SAFETY: The queue is valid until `Started` is dropped, which is after everything that
        // calls this function has ended.
        unsafe { Queue::from_raw(queue) }.try_spawn(flags, f)
    }
}

/// A running [`ModuleQueue`]. Dropping it waits for all work and ends the queue.
pub struct Started(&'static ModuleQueue);

impl Drop for Started {
    fn drop(&mut self) {
        let queue = self.0 .0.load(Relaxed);
        self.0 .0.store(core::ptr::null_mut(), Relaxed);
        // SAFETY: The queue was made by start() and is destroyed only here. No new work comes: the
        // module's fields that could bring some are dropped first.
        unsafe { bindings::destroy_workqueue(queue) };
    }
}
