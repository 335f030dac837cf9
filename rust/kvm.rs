// SPDX-License-Identifier: GPL-2.0

//! KVM's interface for providers of guest-private memory.
//!
//! [`KVM`] is the connection. It is made when KVM with the provider interface is there, and absent
//! otherwise; without it no file is ever bound, and everything that asks KVM to keep guests off a
//! page has nothing to do. One other part of the kernel may play KVM's role beside it, see
//! `include/linux/privmemfd_host.h`.
//!
//! The bindings of a file change only under its `invalidate_lock` held exclusive; every function
//! here that looks at them asks for a guard as proof that they are stable.
//!
//! C headers: `include/linux/kvm_gmem_provider.h`, `include/linux/privmemfd_host.h`

mod moves;
mod provider;
mod td;

pub use moves::{
    GfnMove,
    InPlace,
    Isolated,
    Move,
    Origin,
    Quiesced,
    Source, //
};
pub use provider::{
    Provider,
    ProviderTable,
    TdLost, //
};
pub use td::Td;

use crate::{
    bug::warn_on,
    ffi,
    fs::private_file::Attached,
    mm::{
        folio::Locked,
        mapping::{
            Exclusive,
            Held,
            Mapping, //
        }, //
    },
    slot::{
        InUse,
        Slot, //
    }, //
};
use core::ops::Range;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Release, //
    },
    types::Opaque, //
};

/// Name of a VM for trace events; says nothing about its life.
#[derive(Copy, Clone)]
pub struct VmId(*const ffi::kvm);

impl VmId {
    pub(crate) fn as_ptr(self) -> *const kernel::ffi::c_void {
        self.0.cast()
    }
}

/// KVM's list of the VMs that use a file.
#[pin_data(PinnedDrop)]
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
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The slot can be written and stays where it is.
            inner <- Opaque::ffi_init(|slot| unsafe {
                ffi::privmemfd_helper_kvm_gmem_bindings_init(slot)
            }),
            _: {
                let _ = FILES.fetch_add(1, Full);
            },
        })
    }

    /// Whether there is a file.
    pub(crate) fn any() -> bool {
        FILES.load(Acquire) != 0
    }

    pub(crate) fn as_ptr(&self) -> *mut ffi::kvm_gmem_bindings {
        self.inner.get()
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

#[pinned_drop]
impl PinnedDrop for Bindings {
    fn drop(self: Pin<&mut Self>) {
        let _ = FILES.fetch_add(-1, Release);
    }
}

/// Files that exist.
static FILES: Atomic<isize> = Atomic::new(0);

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

/// The connection to KVM.
pub static KVM: Kvm = Kvm {
    kvm: Slot::new(),
    other: Slot::new(),
    provider: Atomic::new(core::ptr::null_mut()),
};

/// Those who keep guests off pages.
pub struct Kvm {
    /// KVM.
    kvm: Slot<ffi::kvm_gmem_host_ops>,
    /// The one that plays KVM's role beside it.
    other: Slot<ffi::kvm_gmem_host_ops>,
    /// What they call; null until the module offers it.
    provider: Atomic<*mut ffi::kvm_gmem_provider_ops>,
}

type Hosts = [Option<InUse<ffi::kvm_gmem_host_ops>>; 2];

impl Kvm {
    /// KVM is the first.
    fn hosts(&self) -> Hosts {
        [self.kvm.get(), self.other.get()]
    }

    /// Offers the files of `T` to KVM. May sleep.
    ///
    /// Pins kvm.ko until the returned object is dropped. There must be no connection yet. Also
    /// without KVM, the files are on offer for the other host.
    pub fn connect<T: Provider>(
        &'static self,
        table: &'static ProviderTable<T>,
    ) -> Result<Connection<T>, NotConnected> {
        self.provider
            .store((&raw const table.ops).cast_mut(), Release);
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
        let host = self.kvm.as_ptr().cast();
        // SAFETY: The symbol is the function of that name; the table and the place for KVM's table
        // are static. KVM fills the latter before it uses the former, and refuses if the size of
        // either is another one.
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
    /// # Errors
    ///
    /// `EINVAL`, and nothing has changed: `held` is the lock of another file.
    pub fn invalidate<'a, T: Provider, H: Held>(
        &'a self,
        file: &'a Attached<T>,
        pages: Range<usize>,
        held: &'a H,
    ) -> Result<Invalidation<'a, H>> {
        if !core::ptr::eq(held.mapping(), file.mapping()) {
            return Err(EINVAL);
        }
        let bindings = file.bindings();
        let hosts = self.hosts();
        for host in hosts.iter().flatten() {
            // SAFETY: The table is valid while it is in use; the guard keeps the bindings stable
            // for all of 'a.
            unsafe {
                ffi::privmemfd_helper_kvm_invalidate_start(
                    host.as_ptr(),
                    bindings.as_ptr(),
                    pages.start,
                    pages.end,
                )
            };
        }
        Ok(Invalidation {
            hosts,
            bindings,
            pages,
            held,
        })
    }

    /// Keeps every VM off the `src` of each move, see `struct kvm_gmem_host_ops`. Where the hardware
    /// has moved the page, `dst` is in the place of `src` afterwards.
    ///
    /// May sleep; waits for no lock but `kvm->mmu_lock`, and for no memory.
    ///
    /// # Errors
    ///
    /// `EINVAL`, and nothing has changed: `held` is the lock of another file, a `src` is in another
    /// file, their offsets do not rise, a `dst` has been moved to before or its memory has failed.
    pub fn relocate<T: Provider, O: Origin>(
        &self,
        file: &Attached<T>,
        moves: &mut [Move<'_, O>],
        held: &impl Held,
    ) -> Result {
        let mapping = file.mapping();
        if !core::ptr::eq(held.mapping(), mapping) || !are_fit(moves, mapping) {
            return Err(EINVAL);
        }
        let nr = u32::try_from(moves.len())?;
        moves.iter_mut().for_each(Move::begin);
        for host in self.hosts().iter().flatten() {
            // SAFETY: The table is valid while it is in use; the guard keeps the bindings stable;
            // `Move` is transparent, so this is an array of `nr` moves whose folios are locked by
            // their type.
            let done = to_result(unsafe {
                ffi::privmemfd_helper_kvm_relocate(
                    host.as_ptr(),
                    file.bindings().as_ptr(),
                    moves.as_mut_ptr().cast(),
                    nr,
                )
            });
            // Nothing has changed for this host. What an earlier one has moved stays moved.
            if let Err(e) = done {
                moves.iter_mut().for_each(|mv| mv.refuse(e));
            }
        }
        moves.iter().for_each(Move::follow);
        Ok(())
    }
}

/// Whether each `src` is in the file, and each `dst` still new. No folio is there twice: each move has
/// its two to itself.
fn are_fit<O: Origin>(moves: &[Move<'_, O>], mapping: &Mapping) -> bool {
    let at = |mv: &Move<'_, O>| mv.src().index();
    let is_new = |dst: &Locked| dst.mapping().is_null() && !dst.is_unusable();
    moves.is_sorted_by(|one, next| at(one) < at(next))
        && moves
            .iter()
            .all(|mv| mv.src().mapping() == mapping.as_ptr() && is_new(mv.dst()))
}

/// A range that no VM maps, until this is dropped.
#[must_use = "guests map the pages again at once when this is not used"]
pub struct Invalidation<'a, H> {
    hosts: Hosts,
    bindings: &'a Bindings,
    pages: Range<usize>,
    held: &'a H,
}

impl Invalidation<'_, Exclusive<'_>> {
    /// Removes the pages of the range from the file. May sleep: waits for the lock of each folio.
    pub fn truncate(&self) {
        self.held.truncate(self.pages.clone());
    }
}

impl<H> Drop for Invalidation<'_, H> {
    fn drop(&mut self) {
        for host in self.hosts.iter().rev().flatten() {
            // SAFETY: As for the start, and the same range.
            unsafe {
                ffi::privmemfd_helper_kvm_invalidate_end(
                    host.as_ptr(),
                    self.bindings.as_ptr(),
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
        // A file could be bound, and its pages would move without KVM: keep the connection, and
        // with it the code that KVM calls.
        if warn_on(Bindings::any()) {
            // SAFETY: This is code of the module, so it is loaded.
            unsafe { ffi::privmemfd_helper_pin_module() };
            return;
        }
        let host = self.kvm.kvm.take();
        // SAFETY: The table is the one that was registered. No file exists, as was just checked, and
        // without KVM none can be bound.
        unsafe { ffi::privmemfd_helper_kvm_unregister(host, &self.table.ops) };
        // SAFETY: The symbol was got by connect().
        unsafe { bindings::__symbol_put(REGISTER.as_char_ptr()) };
    }
}

/// `privmemfd_register_host()`.
///
/// # Safety
///
/// `host` is valid until it is unregistered, `ops` can be written.
#[no_mangle]
unsafe extern "C" fn privmemfd_rust_register_host(
    host: *const ffi::kvm_gmem_host_ops,
    ops: *mut *const ffi::kvm_gmem_provider_ops,
) -> kernel::ffi::c_int {
    // SAFETY: `host` is valid by the caller's promise.
    let complete = unsafe {
        (*host).size == size_of::<ffi::kvm_gmem_host_ops>()
            && (*host).invalidate_start.is_some()
            && (*host).invalidate_end.is_some()
            && (*host).relocate.is_some()
    };
    let provider = KVM.provider.load(Acquire);
    if !complete || provider.is_null() {
        return EINVAL.to_errno();
    }
    // SAFETY: By the caller's promise. Written first: the host is called from the next line on.
    unsafe { *ops = provider };
    match KVM.other.set(host.cast_mut()) {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

/// `privmemfd_unregister_host()`.
///
/// # Safety
///
/// `host` is the one that was registered.
#[no_mangle]
unsafe extern "C" fn privmemfd_rust_unregister_host(host: *const ffi::kvm_gmem_host_ops) {
    warn_on(!core::ptr::eq(KVM.other.take(), host));
}
