// SPDX-License-Identifier: GPL-2.0

//! The TDX module: its SEAMCALL leaves for the memory of a TD.
//!
//! Each leaf is a function of what it needs in Rust's terms, so that no caller can hand the module a
//! page that is not its own. The module decides the rest, and says so in the status.
//!
//! Context: any but NMI. A call takes as long as the module does, which is bounded; it does not
//! wait for locks, nor does it ever sleep. No leaf here keeps anything per CPU in the module. What
//! the kernel's own SEAMCALLs do in addition cannot be done here, as it is not exported: to note, per
//! CPU and for kexec, that caches may hold lines of a private KeyID. Whoever lends a [`Td`] has made
//! one of those on the same CPU, and stays there.
//!
//! Source: Intel TDX Module 1.5 ABI Specification, "TDH.MEM.*" and "TDH.PHYMEM.PAGE.WBINVD".

use crate::{
    ffi,
    kvm::{
        GfnMove,
        Td, //
    },
    mm::folio::Folio, //
};
use kernel::page::PAGE_SHIFT;

/// A leaf. The values are what RAX takes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Leaf {
    /// TDH.MEM.PAGE.RELOCATE.
    MemPageRelocate = 5,
    /// TDH.MEM.RANGE.BLOCK.
    MemRangeBlock = 7,
    /// TDH.MEM.TRACK.
    MemTrack = 38,
    /// TDH.MEM.RANGE.UNBLOCK.
    MemRangeUnblock = 39,
    /// TDH.PHYMEM.PAGE.WBINVD.
    PhymemPageWbinvd = 41,
}

/// What a leaf has left in registers.
#[derive(Copy, Clone, Debug)]
pub struct Output {
    /// RAX: the completion status. If bits 47:40 are all ones, no TDX module has seen the call.
    pub status: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
}

fn seamcall(leaf: Leaf, rcx: u64, rdx: u64, r8: u64) -> Output {
    let mut regs = ffi::privmemfd_seamcall {
        leaf: leaf as u64,
        rcx,
        rdx,
        r8,
    };
    // SAFETY: What a leaf does to memory is the module's business; the functions below give it
    // pages only that their caller may give away.
    let status = unsafe { ffi::privmemfd_helper_seamcall(&mut regs) };
    Output {
        status,
        rcx: regs.rcx,
        rdx: regs.rdx,
    }
}

fn hpa(folio: &Folio) -> u64 {
    (folio.pfn() as u64) << PAGE_SHIFT
}

/// TDH.MEM.RANGE.BLOCK: no new translations of the page.
pub fn mem_range_block(td: &Td, page: &GfnMove<'_>) -> Output {
    seamcall(Leaf::MemRangeBlock, page.gpa(), td.tdr(), 0)
}

/// TDH.MEM.RANGE.UNBLOCK: the opposite. Needs TLB tracking as well.
pub fn mem_range_unblock(td: &Td, page: &GfnMove<'_>) -> Output {
    seamcall(Leaf::MemRangeUnblock, page.gpa(), td.tdr(), 0)
}

/// TDH.MEM.TRACK: a new TLB epoch begins.
pub fn mem_track(td: &Td) -> Output {
    seamcall(Leaf::MemTrack, td.tdr(), 0, 0)
}

/// TDH.MEM.PAGE.RELOCATE: the content goes from `src` to `dst`, and so does the mapping.
///
/// The caller has called [`give`] for `dst`.
pub fn mem_page_relocate(td: &Td, page: &GfnMove<'_>) -> Output {
    seamcall(Leaf::MemPageRelocate, page.gpa(), td.tdr(), hpa(page.dst()))
}

/// TDH.PHYMEM.PAGE.WBINVD: caches hold nothing of the TD's in `src` any more.
pub fn phymem_page_wbinvd(td: &Td, page: &GfnMove<'_>) -> Output {
    // SAFETY: Arithmetic on scalars.
    let rcx = unsafe { ffi::privmemfd_helper_with_keyid(hpa(page.src()), td.hkid()) };
    seamcall(Leaf::PhymemPageWbinvd, rcx, 0, 0)
}

/// Host physical address of the folio that is to make room.
pub fn old_page(page: &GfnMove<'_>) -> u64 {
    hpa(page.src())
}

/// Prepares the folio that takes the place for the TDX module: no cache line of the host's may be written back later.
pub fn give(page: &GfnMove<'_>) {
    // SAFETY: The folio is valid and of order 0.
    unsafe { ffi::privmemfd_helper_flush_folio(page.dst().as_ptr()) }
}

/// A leaf that no TDX module has, for a test of the instruction's ways to fail.
#[cfg(CONFIG_KUNIT = "y")]
pub fn test_unknown_leaf() -> Output {
    let mut regs = ffi::privmemfd_seamcall {
        leaf: 0xffff,
        ..Default::default()
    };
    // SAFETY: A module refuses the call, and does nothing to memory.
    let status = unsafe { ffi::privmemfd_helper_seamcall(&mut regs) };
    Output {
        status,
        rcx: regs.rcx,
        rdx: regs.rdx,
    }
}
