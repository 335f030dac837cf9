// SPDX-License-Identifier: GPL-2.0

//! A work queue that belongs to the module.
//!
//! Work on a queue of the system may still run when the module's code is gone, since nothing waits
//! for its last instructions. A [`ModuleQueue`] is emptied before the module goes.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::slot::Slot;
use kernel::{
    bindings,
    prelude::*,
    workqueue::{
        Queue,
        RawWorkItem, //
    }, //
};

/// A work queue. To be put into a `static`.
pub struct ModuleQueue(Slot<bindings::workqueue_struct>);

impl Default for ModuleQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl ModuleQueue {
    /// No queue yet.
    pub const fn new() -> Self {
        Self(Slot::new())
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
        self.0.set(queue).inspect_err(|_| {
            // SAFETY: The queue was made above, and nobody else knows it.
            unsafe { bindings::destroy_workqueue(queue) };
        })?;
        Ok(Started(self))
    }

    /// Runs `work` soon, in process context. Nothing happens if the queue is not started.
    pub fn enqueue<W: RawWorkItem<0> + Send + 'static>(&self, work: W) {
        if let Some(queue) = self.0.get() {
            // SAFETY: The queue is not destroyed while it is in use.
            unsafe { Queue::from_raw(queue.as_ptr()) }.enqueue(work);
        }
    }
}

/// A running [`ModuleQueue`]. Dropping it waits for all work and ends the queue.
pub struct Started(&'static ModuleQueue);

impl Drop for Started {
    fn drop(&mut self) {
        let queue = self.0 .0.take();
        // SAFETY: The queue was made by start(), is taken out only here, and no new work comes.
        unsafe { bindings::destroy_workqueue(queue) };
    }
}
