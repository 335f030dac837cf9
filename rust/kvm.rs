// SPDX-License-Identifier: GPL-2.0

//! KVM's interface for providers of guest-private memory.
//!
//! [`Kvm`] is the connection: one static per module. It is made when KVM with the provider
//! interface is there, and absent otherwise; without it no file is ever bound, and everything
//! that asks KVM to keep guests off a page has nothing to do.
//!
//! The bindings of a file change only under its `invalidate_lock` held exclusive; every function
//! here that looks at them asks for a guard as proof that they are stable.
//!
//! C header: `include/linux/kvm_gmem_provider.h`

use crate::{
    ffi,
    fs::private_file::{
        Attached,
        FileTables,
        PrivateFile, //
    },
    mm::{
        folio::{
            Locked,
            LockedFolio, //
        },
        mapping::Held, //
    }, //
};
use core::{
    marker::PhantomData,
    ops::Range, //
};
use kernel::{
    bindings,
    error::{
        to_result, //
    },
    fs::File,
    module::this_module,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Relaxed, //
        }, //
    },
    types::Opaque,
    warn_on, //
};

/// Name of a VM for trace events; says nothing about its life.
#[derive(Copy, Clone)]
pub struct VmId(*const ffi::kvm);

impl VmId {
    pub(crate) fn as_ptr(self) -> *const kernel::ffi::c_void {
        self.0.cast()
    }
}

/// KVM's list of the VMs that use a file; part of the object behind the file.
#[pin_data]
pub struct Bindings {
    #[pin]
    inner: Opaque<ffi::kvm_gmem_bindings>,
}

// SAFETY: KVM accesses the list under the file's invalidate_lock, from any thread.
unsafe impl Send for Bindings {}
// SAFETY: As above; the counters are read as single words.
unsafe impl Sync for Bindings {}

impl Bindings {
    /// An empty list.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The slot can be written and stays where it is.
            inner <- Opaque::ffi_init(|slot| unsafe {
                ffi::privmemfd_helper_kvm_gmem_bindings_init(slot)
            }),
        })
    }

    /// Number of VMs that use the file. For statistics.
    pub fn vms(&self) -> u32 {
        // SAFETY: The structure is initialised; reading a word races with nothing but its update.
        unsafe { core::ptr::read_volatile(&raw const (*self.inner.get()).nr_vms) }
    }

    /// Number of memslots that use the file. For statistics.
    pub fn slots(&self) -> u32 {
        // SAFETY: As above.
        unsafe { core::ptr::read_volatile(&raw const (*self.inner.get()).nr_slots) }
    }
}

/// What a module does for KVM.
#[vtable]
pub trait Provider: PrivateFile {
    /// The file's bindings.
    fn bindings(&self) -> &Bindings;

    /// The folio at page offset `index`, allocated if need be.
    ///
    /// May sleep; `vcpu->mutex` and a read side of `kvm->srcu`, or the `invalidate_lock`
    /// exclusive, may be held. Errors reach the VMM by `KVM_EXIT_MEMORY_FAULT`.
    fn get_folio(file: &Attached<Self>, index: usize) -> Result<LockedFolio>;

    /// A new file for `KVM_CREATE_GUEST_MEMFD`. May sleep.
    fn create_for_kvm(size: u64) -> Result<ARef<File>>;

    /// Whether all private memory of VMs shall come from here. Any context.
    fn serves_private() -> bool;

    /// The pages now back a memslot. The `invalidate_lock` is held exclusive.
    fn bound(file: &Attached<Self>, vm: VmId, pages: Range<usize>);

    /// The opposite of [`Provider::bound`].
    fn unbound(file: &Attached<Self>, vm: VmId, pages: Range<usize>);
}

/// The C function table of a [`Provider`]. To be put into a `static`.
pub struct ProviderTable<T> {
    ops: ffi::kvm_gmem_provider_ops,
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
                owner: this_module::<<T as Provider>::OwnerModule>().as_ptr(),
                fops: &raw const tables.file,
                bindings: Some(Self::bindings),
                get_folio: Some(Self::get_folio),
                create: Some(Self::create),
                serves_private: Some(Self::serves_private),
                bound: Some(Self::bound),
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
            .object()
            .bindings()
            .inner
            .get()
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

/// Why there is no connection to KVM.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum NotConnected {
    /// kvm.ko is not loaded.
    NoKvm,
    /// kvm.ko is loaded, but has no provider interface.
    NoInterface,
    /// KVM has refused: the interface is another version, or there is a provider already.
    Refused(Error),
}

const REGISTER: &CStr = c"kvm_gmem_register_provider";
/// Exported by every kvm.ko.
const ANY_KVM: &CStr = c"kvm_get_kvm";

/// The connection to KVM. To be put into a `static`.
pub struct Kvm {
    /// KVM's table, null while there is no connection.
    host: Atomic<*mut ffi::kvm_gmem_host_ops>,
}

impl Default for Kvm {
    fn default() -> Self {
        Self::new()
    }
}

impl Kvm {
    /// No connection.
    pub const fn new() -> Self {
        Self {
            host: Atomic::new(core::ptr::null_mut()),
        }
    }

    /// Offers the files of `T` to KVM. May sleep.
    ///
    /// Pins kvm.ko until the returned object is dropped. There must be no connection yet.
    pub fn connect<T: Provider>(
        &'static self,
        table: &'static ProviderTable<T>,
    ) -> Result<Connection<T>, NotConnected> {
        // SAFETY: The name is a C string.
        let symbol = unsafe { bindings::__symbol_get(REGISTER.as_char_ptr()) };
        if symbol.is_null() {
            // SAFETY: The name is a C string.
            if unsafe { bindings::__symbol_get(ANY_KVM.as_char_ptr()) }.is_null() {
                return Err(NotConnected::NoKvm);
            }
            // SAFETY: The symbol was got above.
            unsafe { bindings::__symbol_put(ANY_KVM.as_char_ptr()) };
            return Err(NotConnected::NoInterface);
        }
        let host = self.host.as_ptr().cast();
        // SAFETY: The symbol is the function of that name; the table and the place for KVM's table
        // are static. KVM fills the latter before it uses the former.
        to_result(unsafe { ffi::privmemfd_helper_kvm_register(symbol, &table.ops, host) })
            .map_err(|e| {
                // SAFETY: The symbol was got above.
                unsafe { bindings::__symbol_put(REGISTER.as_char_ptr()) };
                NotConnected::Refused(e)
            })?;
        Ok(Connection { kvm: self, table })
    }

    /// Unmaps `pages` in every VM until the returned object is dropped. May sleep.
    ///
    /// `held` is the lock of the file's mapping; anything else is a bug of the caller, which is
    /// reported, and nothing is unmapped.
    pub fn invalidate<'a, T: Provider>(
        &self,
        file: &'a Attached<T>,
        pages: Range<usize>,
        held: &'a impl Held,
    ) -> Invalidation<'a> {
        let bindings = file.object().bindings();
        let mut host = self.host.load(Acquire);
        if warn_on!(!core::ptr::eq(held.mapping(), file.mapping())) {
            host = core::ptr::null_mut();
        }
        if !host.is_null() {
            // SAFETY: KVM's table is valid until disconnection, which is when no file exists; the
            // guard keeps the bindings stable for all of 'a.
            unsafe {
                ffi::privmemfd_helper_kvm_invalidate_start(
                    host,
                    bindings.inner.get(),
                    pages.start,
                    pages.end,
                )
            };
        }
        Invalidation {
            host,
            bindings,
            pages,
        }
    }

    /// Keeps every VM off the `src` of each move, see `struct kvm_gmem_host_ops`.
    ///
    /// May sleep; waits for no lock but `kvm->mmu_lock` and allocates nothing.
    ///
    /// # Errors
    ///
    /// Those of KVM; nothing has changed then. `EINVAL`: `held` is the lock of another file, or a
    /// `src` is in another file, which is a bug of the caller and reported.
    pub fn relocate<T: Provider>(
        &self,
        file: &Attached<T>,
        moves: &mut [Move<'_>],
        held: &impl Held,
    ) -> Result {
        let mapping = file.mapping();
        let host = self.host.load(Acquire);
        if warn_on!(
            !core::ptr::eq(held.mapping(), mapping)
                || moves
                    .iter()
                    .any(|mv| mv.src().mapping() != mapping.as_ptr())
        ) {
            return Err(EINVAL);
        }
        if host.is_null() {
            // No VM can be bound: the moves are born as KVM_GMEM_MOVE_COPY.
            return Ok(());
        }
        let nr = u32::try_from(moves.len())?;
        // SAFETY: KVM's table is valid until disconnection, which is when no file exists; the
        // guard keeps the bindings stable; `Move` is transparent, so this is an array of `nr`
        // moves whose folios are locked by their type.
        to_result(unsafe {
            ffi::privmemfd_helper_kvm_relocate(
                host,
                file.object().bindings().inner.get(),
                moves.as_mut_ptr().cast(),
                nr,
            )
        })
    }
}

/// How far KVM has brought a [`Move`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Guests are kept off `src`; the content is still there.
    Quiesced,
    /// The content is in `dst`, and guests use it there.
    Moved,
}

/// One folio on its way, for [`Kvm::relocate`].
///
/// # Invariants
///
/// `src` and `dst` are borrowed for `'a`.
#[repr(transparent)]
pub struct Move<'a>(ffi::kvm_gmem_move, PhantomData<&'a Locked>);

impl<'a> Move<'a> {
    /// `src` is to make room for `dst`.
    pub fn new(src: &'a Locked, dst: &'a Locked) -> Self {
        Self(
            ffi::kvm_gmem_move {
                index: src.index(),
                src: src.as_ptr(),
                dst: dst.as_ptr(),
                result: ffi::KVM_GMEM_MOVE_COPY as i32,
            },
            PhantomData,
        )
    }

    /// The folio that is to make room.
    pub fn src(&self) -> &'a Locked {
        // SAFETY: new() had it from a `&'a Locked`, and KVM does not change it.
        unsafe { Locked::from_raw(self.0.src) }
    }

    /// The folio that is to take its place.
    pub fn dst(&self) -> &'a Locked {
        // SAFETY: new() had it from a `&'a Locked`, and KVM does not change it.
        unsafe { Locked::from_raw(self.0.dst) }
    }

    /// How far KVM has brought it.
    ///
    /// # Errors
    ///
    /// KVM could not do it; nothing has changed for this folio.
    pub fn progress(&self) -> Result<Progress> {
        to_result(self.0.result)?;
        Ok(if self.0.result == ffi::KVM_GMEM_MOVE_DONE as i32 {
            Progress::Moved
        } else {
            Progress::Quiesced
        })
    }
}

/// Speaks for KVM.
#[cfg(CONFIG_KUNIT = "y")]
impl Move<'_> {
    /// Sets the `result` of `struct kvm_gmem_move`.
    pub fn test_set_result(&mut self, result: i32) {
        self.0.result = result;
    }
}

/// A range that no VM maps, until this is dropped.
#[must_use = "guests map the pages again at once when this is not used"]
pub struct Invalidation<'a> {
    host: *mut ffi::kvm_gmem_host_ops,
    bindings: &'a Bindings,
    pages: Range<usize>,
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        if !self.host.is_null() {
            // SAFETY: As for the start, and the same range.
            unsafe {
                ffi::privmemfd_helper_kvm_invalidate_end(
                    self.host,
                    self.bindings.inner.get(),
                    self.pages.start,
                    self.pages.end,
                )
            };
        }
    }
}

/// A connection to KVM. Dropping it ends it.
pub struct Connection<T: 'static> {
    kvm: &'static Kvm,
    table: &'static ProviderTable<T>,
}

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        let host = self.kvm.host.load(Relaxed);
        self.kvm.host.store(core::ptr::null_mut(), Relaxed);
        // SAFETY: The table is the one that was registered. Files pin the module, and a connection
        // lives as long as the module, so no file exists.
        unsafe { ffi::privmemfd_helper_kvm_unregister(host, &self.table.ops) };
        // SAFETY: The symbol was got by connect().
        unsafe { bindings::__symbol_put(REGISTER.as_char_ptr()) };
    }
}
