// SPDX-License-Identifier: GPL-2.0

//! A work queue that belongs to the module.
//!
//! Work on a queue of the system may still run when the module's code is gone, since nothing waits
//! for its last instructions. A [`ModuleQueue`] is emptied before the module goes.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::mm::cond_resched;
use kernel::{
    alloc::AllocError,
    bindings,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full, //
    },
    workqueue::Queue, //
};

/// A work queue. To be put into a `static`.
pub struct ModuleQueue {
    /// Null while there is none.
    queue: Atomic<*mut bindings::workqueue_struct>,
    /// Tasks that may be about to put work on it.
    users: Atomic<i32>,
}

impl Default for ModuleQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl ModuleQueue {
    /// No queue yet.
    pub const fn new() -> Self {
        Self {
            queue: Atomic::new(core::ptr::null_mut()),
            users: Atomic::new(0),
        }
    }

    /// Makes the queue, until the returned object is dropped. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. `EBUSY`: the queue is started already.
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
        if self
            .queue
            .cmpxchg(core::ptr::null_mut(), queue, Full)
            .is_err()
        {
            // SAFETY: The queue was made above, and nobody else knows it.
            unsafe { bindings::destroy_workqueue(queue) };
            return Err(EBUSY);
        }
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
        // Fully ordered, as is the other side: either this task is seen there, or null here.
        let _ = self.users.fetch_add(1, Full);
        let queue = self.queue.load(Acquire);
        let result = if queue.is_null() {
            Err(AllocError)
        } else {
            // SAFETY: The queue is not destroyed while there are users.
            unsafe { Queue::from_raw(queue) }.try_spawn(flags, f)
        };
        let _ = self.users.fetch_add(-1, Full);
        result
    }
}

/// A running [`ModuleQueue`]. Dropping it waits for all work and ends the queue.
pub struct Started(&'static ModuleQueue);

impl Drop for Started {
    fn drop(&mut self) {
        let queue = self.0.queue.xchg(core::ptr::null_mut(), Full);
        while self.0.users.load(Acquire) != 0 {
            cond_resched();
        }
        // SAFETY: The queue was made by start(), is taken out only here, and no new work comes.
        unsafe { bindings::destroy_workqueue(queue) };
    }
}
