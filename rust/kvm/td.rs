// SPDX-License-Identifier: GPL-2.0

//! A TD some of whose pages are to be moved: `struct kvm_gmem_td`.

use crate::ffi;
use kernel::types::Opaque;

/// See the module documentation.
///
/// While it is borrowed, nobody else changes the TD's S-EPT, and preemption is disabled.
///
/// # Invariants
///
/// The structure is valid, and its functions may be called.
#[repr(transparent)]
pub struct Td(Opaque<ffi::kvm_gmem_td>);

impl Td {
    /// Borrows a TD.
    ///
    /// # Safety
    ///
    /// `ptr` is valid and not changed for all of `'a`, and what holds for the arguments of
    /// `kvm_gmem_provider_ops.relocate_td` does so too.
    pub(crate) unsafe fn from_raw<'a>(ptr: *const ffi::kvm_gmem_td) -> &'a Self {
        // SAFETY: By the caller's promise; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    fn raw(&self) -> &ffi::kvm_gmem_td {
        // SAFETY: By the type invariant, and nobody writes it.
        unsafe { &*self.0.get() }
    }

    /// Host physical address of the TDR page, without KeyID bits.
    pub fn tdr(&self) -> u64 {
        self.raw().tdr
    }

    /// The TD's private KeyID.
    pub fn hkid(&self) -> u16 {
        self.raw().hkid
    }

    /// vCPUs of the TD may be in the guest.
    pub fn runnable(&self) -> bool {
        self.raw().runnable
    }

    /// Makes every vCPU leave the guest. It may enter again at once. Spins until all have left.
    pub fn kick(&self) {
        // SAFETY: By the type invariant.
        unsafe { ffi::privmemfd_helper_td_kick(self.0.get()) }
    }

    /// Makes every vCPU leave the guest and keeps it outside. Spins until all have left.
    pub fn hold(&self) {
        // SAFETY: By the type invariant.
        unsafe { ffi::privmemfd_helper_td_hold(self.0.get()) }
    }

    /// Ends [`Td::hold`].
    pub fn release(&self) {
        // SAFETY: By the type invariant.
        unsafe { ffi::privmemfd_helper_td_release(self.0.get()) }
    }
}
