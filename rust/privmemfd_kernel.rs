// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate lacks for a file of guest-private memory.
//!
//! Folios, the page cache, files with an address space of their own, KVM's
//! provider interface, the TDX module and trace events, as safe types. All unsafe code of the
//! module is in this crate; it knows the kernel, but nothing of the policy of
//! the module, which is the crate `main` above it.
//!
//! Lock order of what the types here stand for, outermost first:
//!
//! 1. `kvm->slots_lock` (taken by KVM only)
//! 2. `mapping->invalidate_lock`: [`mm::mapping::Shared`], [`mm::mapping::Exclusive`]
//! 3. folio lock: [`mm::folio::LockedFolio`]
//! 4. `kvm->mmu_lock` (taken by KVM only), `i_pages` lock (taken by mm only)

mod bug;
pub mod capability;
pub mod debugfs;
pub mod ffi;
pub mod fs;
pub mod kvm;
pub mod maple_tree;
pub mod mm;
pub mod power;
mod slot;
pub mod tdx;
pub mod trace;
pub mod workqueue;

#[allow(dead_code)] // Used by the `pr_*!` macros.
const __LOG_PREFIX: &[u8] = b"privmemfd\0";
