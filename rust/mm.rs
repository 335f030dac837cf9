// SPDX-License-Identifier: GPL-2.0

//! Memory management: folios, the page cache, NUMA nodes.

pub mod folio;
pub mod folio_batch;
pub mod hotplug;
pub mod mapping;

use crate::ffi;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Tells whether `nid` is the number of an online NUMA node.
///
/// Any context. A node may go offline at any time afterwards.
pub fn node_online(nid: i32) -> bool {
    // SAFETY: The helper checks the range of `nid`, so any value may be passed.
    unsafe { ffi::privmemfd_helper_node_online(nid) }
}

/// Has the kernel deal with the frame `pfn`, whose memory has failed. May sleep; not under a folio
/// lock or the `invalidate_lock`.
///
/// # Errors
///
/// `EHWPOISON`: it has done so before. `EOPNOTSUPP`: it cannot. All others: something is left to
/// be done, but nobody gets the frame any more.
pub fn memory_failure(pfn: usize) -> Result {
    // SAFETY: Any frame number may be passed.
    to_result(unsafe { ffi::privmemfd_helper_memory_failure(pfn) })
}

/// Gives other tasks a chance to run, in loops over many pages.
///
/// May sleep.
pub fn cond_resched() {
    // SAFETY: Has no preconditions but task context, which all users of this crate run in.
    unsafe { ffi::privmemfd_helper_cond_resched() }
}
