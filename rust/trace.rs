// SPDX-License-Identifier: GPL-2.0

//! Trace events: one function per event, scalars only.
//!
//! A disabled event costs a call and a branch. Any context.
//!
//! C header: `include/trace/events/privmemfd.h`

use crate::{
    ffi,
    kvm::VmId, //
};
use core::ops::Range;

/// A file was made.
pub fn create(ino: u64, size: u64, flags: u64, node: i32) {
    // SAFETY: Scalars only.
    unsafe { ffi::privmemfd_helper_trace_create(ino, size, flags, node) }
}

/// A range of pages now backs a memslot.
pub fn bind(ino: u64, vm: VmId, pages: Range<usize>) {
    // SAFETY: Scalars only; `vm` is printed hashed, not followed.
    unsafe { ffi::privmemfd_helper_trace_bind(ino, vm.as_ptr(), pages.start, pages.len()) }
}

/// A range of pages no longer backs a memslot.
pub fn unbind(ino: u64, vm: VmId, pages: Range<usize>) {
    // SAFETY: Scalars only; `vm` is printed hashed, not followed.
    unsafe { ffi::privmemfd_helper_trace_unbind(ino, vm.as_ptr(), pages.start, pages.len()) }
}

/// Tells whether somebody listens to the relocation events, and so wants time to be taken.
pub fn relocate_enabled() -> bool {
    // SAFETY: Has no preconditions.
    unsafe { ffi::privmemfd_helper_trace_relocate_enabled() }
}

/// A relocation starts.
pub fn relocate_begin(ino: u64, index: usize, from: usize, to: usize, cause: u32) {
    // SAFETY: Scalars only.
    unsafe {
        ffi::privmemfd_helper_trace_relocate_begin(ino, index, from, to, cause);
    }
}

/// A relocation has ended. `backend` is the number of the one that had its turn, `refusal` the number of the reason, if it was refused.
pub fn relocate_end(
    ino: u64,
    index: usize,
    cause: u32,
    backend: Option<u32>,
    result: i32,
    refusal: Option<u32>,
    ns: u64,
) {
    // SAFETY: Scalars only.
    unsafe {
        ffi::privmemfd_helper_trace_relocate_end(
            ino,
            index,
            cause,
            backend.unwrap_or(u32::MAX),
            result,
            refusal.unwrap_or(u32::MAX),
            ns,
        );
    }
}
