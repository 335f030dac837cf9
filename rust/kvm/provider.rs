// SPDX-License-Identifier: GPL-2.0

//! What a module does for KVM: `struct kvm_gmem_provider_ops`.

use super::{
    GfnMove,
    Td,
    VmId, //
};
use crate::{
    ffi,
    fs::private_file::{
        Attached,
        FileTables,
        PrivateFile, //
    },
    mm::{
        folio::LockedFolio,
        mapping::Exclusive, //
    }, //
};
use core::{
    marker::PhantomData,
    ops::Range, //
};
use kernel::{
    bindings,
    fs::File,
    module::this_module,
    prelude::*,
    sync::aref::ARef, //
};

/// Why a TD can no longer run.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum TdLost {
    /// The TDX module has stopped it or is gone, or a page of it stays blocked.
    Dead,
    /// The TDX module has done something else than was asked for.
    Broken,
}

/// What a module does for KVM.
#[vtable]
pub trait Provider: PrivateFile {
    /// The folio at page offset `index`, allocated if need be.
    ///
    /// May sleep; `vcpu->mutex` and a read side of `kvm->srcu`, or the `invalidate_lock`
    /// exclusive, may be held. Errors reach the VMM by `KVM_EXIT_MEMORY_FAULT`.
    fn get_folio(file: &Attached<Self>, index: usize) -> Result<LockedFolio>;

    /// A new file for `KVM_CREATE_GUEST_MEMFD`. May sleep.
    fn create_for_kvm(size: u64) -> Result<ARef<File>>;

    /// Whether all private memory of VMs shall come from here. Any context.
    fn serves_private() -> bool;

    /// Moves pages that a TD has mapped.
    ///
    /// `kvm->mmu_lock` is held for write, and preemption is disabled. At most [`GfnMove::BATCH`]
    /// moves. Must not sleep or allocate, and sets the result of each move.
    ///
    /// # Errors
    ///
    /// The TD can no longer run. The results hold nonetheless.
    fn relocate_td(td: &Td, moves: &mut [GfnMove<'_>]) -> Result<(), TdLost>;

    /// The pages now back a memslot. The `invalidate_lock` is held exclusive.
    fn bound(file: &Attached<Self>, vm: VmId, pages: Range<usize>);

    /// The pages are part of a memslot that is about to be unbound, and its VM maps none of them any
    /// more. What [`Folio::is_kept`] of them leaves the file. May sleep.
    ///
    /// [`Folio::is_kept`]: crate::mm::folio::Folio::is_kept
    fn drop_kept(file: &Attached<Self>, pages: Range<usize>, held: &Exclusive<'_>);

    /// The opposite of [`Provider::bound`].
    fn unbound(file: &Attached<Self>, vm: VmId, pages: Range<usize>);
}

/// The C function table of a [`Provider`]. To be put into a `static`.
pub struct ProviderTable<T> {
    pub(super) ops: ffi::kvm_gmem_provider_ops,
    _t: PhantomData<fn(T)>,
}

// SAFETY: The table is never written.
unsafe impl<T> Sync for ProviderTable<T> {}

impl<T: Provider> ProviderTable<T> {
    /// The table for `T`, whose files have `tables`.
    pub const fn new(tables: &'static FileTables<T>) -> Self {
        Self {
            ops: ffi::kvm_gmem_provider_ops {
                size: size_of::<ffi::kvm_gmem_provider_ops>(),
                bindings_size: size_of::<ffi::kvm_gmem_bindings>(),
                host_size: size_of::<ffi::kvm_gmem_host_ops>(),
                owner: this_module::<<T as Provider>::OwnerModule>().as_ptr(),
                fops: &raw const tables.file,
                bindings: Some(Self::bindings),
                get_folio: Some(Self::get_folio),
                create: Some(Self::create),
                serves_private: Some(Self::serves_private),
                relocate_td: Some(Self::relocate_td),
                bound: Some(Self::bound),
                drop_kept: Some(Self::drop_kept),
                unbound: Some(Self::unbound),
            },
            _t: PhantomData,
        }
    }

    /// # Safety
    ///
    /// `file` is a file of `T` with a reference during the call.
    unsafe extern "C" fn bindings(file: *mut bindings::file) -> *mut ffi::kvm_gmem_bindings {
        // SAFETY: By the caller's promise.
        unsafe { Attached::<T>::from_file(file) }
            .bindings()
            .as_ptr()
    }

    /// # Safety
    ///
    /// `file` is a file of `T` with a reference during the call.
    unsafe extern "C" fn get_folio(
        file: *mut bindings::file,
        index: usize,
    ) -> *mut bindings::folio {
        // SAFETY: By the caller's promise.
        let file = unsafe { Attached::<T>::from_file(file) };
        match T::get_folio(file, index) {
            // KVM maps it, which is right for what the file has there only.
            Ok(folio) if !file.mapping().has_at(index, &folio) => EIO.to_ptr(),
            Ok(folio) if folio.is_unusable() => EHWPOISON.to_ptr(),
            Ok(folio) => folio.into_raw(),
            Err(e) => e.to_ptr(),
        }
    }

    /// # Safety
    ///
    /// None; the signature is C's.
    unsafe extern "C" fn create(size: bindings::loff_t) -> *mut bindings::file {
        let size = u64::try_from(size).map_err(|_| EINVAL);
        match size.and_then(T::create_for_kvm) {
            Ok(file) => ARef::into_raw(file).as_ptr().cast(),
            Err(e) => e.to_ptr(),
        }
    }

    /// # Safety
    ///
    /// None; the signature is C's.
    unsafe extern "C" fn serves_private() -> bool {
        T::serves_private()
    }

    /// # Safety
    ///
    /// `td` and `nr` elements of `moves` are valid; all folios are locked by the caller; for the
    /// duration of the call.
    unsafe extern "C" fn relocate_td(
        td: *const ffi::kvm_gmem_td,
        moves: *mut ffi::kvm_gfn_move,
        nr: u32,
    ) -> kernel::ffi::c_int {
        // SAFETY: By the caller's promise.
        let td = unsafe { Td::from_raw(td) };
        // SAFETY: By the caller's promise; the type is transparent.
        let moves = unsafe { core::slice::from_raw_parts_mut(moves.cast(), nr as usize) };
        match T::relocate_td(td, moves) {
            Ok(()) => 0,
            Err(TdLost::Dead) => EIO.to_errno(),
            Err(TdLost::Broken) => EPROTO.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `file` is a file of `T` with a reference during the call.
    unsafe extern "C" fn bound(
        file: *mut bindings::file,
        vm: *const ffi::kvm,
        start: usize,
        nr_pages: usize,
    ) {
        // SAFETY: By the caller's promise.
        let file = unsafe { Attached::<T>::from_file(file) };
        T::bound(file, VmId(vm), start..start + nr_pages);
    }

    /// # Safety
    ///
    /// `file` is a file of `T` with a reference, and its `invalidate_lock` is held exclusive, during
    /// the call.
    unsafe extern "C" fn drop_kept(file: *mut bindings::file, start: usize, nr_pages: usize) {
        // SAFETY: By the caller's promise.
        let file = unsafe { Attached::<T>::from_file(file) };
        // SAFETY: The caller holds the lock, and goes on holding it.
        let held = unsafe { Exclusive::borrow(file.mapping()) };
        T::drop_kept(file, start..start + nr_pages, &held);
    }

    /// # Safety
    ///
    /// `file` is a file of `T` with a reference during the call.
    unsafe extern "C" fn unbound(
        file: *mut bindings::file,
        vm: *const ffi::kvm,
        start: usize,
        nr_pages: usize,
    ) {
        // SAFETY: By the caller's promise.
        let file = unsafe { Attached::<T>::from_file(file) };
        T::unbound(file, VmId(vm), start..start + nr_pages);
    }
}
