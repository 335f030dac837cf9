// SPDX-License-Identifier: GPL-2.0

//! Memory management: folios, the page cache, NUMA nodes.

pub mod folio;
pub mod folio_batch;
pub mod hotplug;
pub mod mapping;
pub(crate) mod uncounted;

use crate::ffi;
use kernel::{
    error::to_result,
    prelude::*,
    types::NotThreadSafe, //
};

/// Tells whether `nid` is the number of an online NUMA node.
///
/// Any context. A node may go offline at any time afterwards.
pub fn node_online(nid: i32) -> bool {
    // SAFETY: The helper checks the range of `nid`, so any value may be passed.
    unsafe { ffi::privmemfd_helper_node_online(nid) }
}

/// While it lives no memory block ends going offline: offlining passes failed folios by, whoever
/// has them, and then their `struct page` is no more.
///
/// A notifier waits for all of these, inside mm's locks of offlining, and so must not be waited for
/// by who has one.
#[must_use = "it ends at once when it is not used"]
pub struct Failing(NotThreadSafe);

impl Failing {
    /// May be called in any context.
    pub fn begin() -> Self {
        // SAFETY: Counts; the count is dropped by `drop()`.
        unsafe { ffi::privmemfd_helper_failing_begin() };
        Self(NotThreadSafe)
    }

    /// Has the kernel deal with the frame `pfn`, whose memory has failed. May sleep; not under a folio
    /// lock or the `invalidate_lock`.
    ///
    /// # Errors
    ///
    /// `EHWPOISON`: it has done so before. `EOPNOTSUPP`: it cannot. All others: something is left
    /// to be done, but nobody gets the frame any more.
    pub fn memory_failure(&self, pfn: usize) -> Result {
        // SAFETY: Any frame number may be passed.
        to_result(unsafe { ffi::privmemfd_helper_memory_failure(pfn) })
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // SAFETY: It was begun once.
        unsafe { ffi::privmemfd_helper_failing_end() };
    }
}

/// Gives other tasks a chance to run, in loops over many pages.
///
/// May sleep.
pub fn cond_resched() {
    // SAFETY: Has no preconditions but task context, which all users of this crate run in.
    unsafe { ffi::privmemfd_helper_cond_resched() }
}
