// SPDX-License-Identifier: GPL-2.0

//! Folios of order 0.
//!
//! Four types tell what the holder may do:
//!
//! - `&Folio`, [`ARef<Folio>`]: a reference. The folio may be in a file, or have left it.
//! - `&Locked`: the folio lock is held, by a [`LockedFolio`] or by whoever lent the reference
//!   (a callback of mm). The folio's place in the file cannot change.
//! - [`LockedFolio`]: a reference and the lock, dropped in that order reversed.
//! - [`NewFolio`]: the same of one that nobody else knows, for a page to move to.
//!
//! The content of a folio can be zeroed and copied, never read or written from Rust.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h)

use crate::{
    ffi,
    mm::{
        mapping::Mapping,
        uncounted::UNCOUNTED, //
    }, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};

/// Zone of physical memory that a folio lies in.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Zone {
    /// Reachable by ISA devices (`ZONE_DMA`).
    Dma,
    /// Below 4 GiB (`ZONE_DMA32`).
    Dma32,
    /// Ordinary memory (`ZONE_NORMAL`).
    Normal,
    /// Memory that holds only what can be moved (`ZONE_MOVABLE`).
    Movable,
    /// Memory of a device (`ZONE_DEVICE`).
    Device,
}

/// `struct folio` of order 0.
///
/// # Invariants
///
/// The wrapped folio is valid and has a reference count above zero while a `&Folio` exists.
#[repr(transparent)]
pub struct Folio(Opaque<bindings::folio>);

// SAFETY: A folio belongs to no thread; its fields are accessed by atomic operations or under the
// folio lock.
unsafe impl Send for Folio {}
// SAFETY: All methods with `&self` are atomic operations or read fields that do not change while
// a reference is held.
unsafe impl Sync for Folio {}

// SAFETY: `folio_get()` and `folio_put()` count references, and the folio stays until the last.
unsafe impl AlwaysRefCounted for Folio {
    fn inc_ref(&self) {
        // SAFETY: By the type invariant, the reference count is above zero.
        unsafe { ffi::privmemfd_helper_folio_get(self.as_ptr()) }
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns the reference that is dropped here.
        unsafe { ffi::privmemfd_helper_folio_put(obj.as_ptr().cast()) }
    }
}

impl Folio {
    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `ptr` is a valid order-0 folio, and the caller owns a reference and gives it away.
    #[inline]
    pub(crate) unsafe fn own(ptr: NonNull<bindings::folio>) -> ARef<Self> {
        // SAFETY: By the caller's promise; the type is transparent.
        unsafe { ARef::from_raw(ptr.cast()) }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::folio {
        // Opaque::get() is a call where the kernel is compiled for size.
        (&raw const self.0).cast_mut().cast()
    }

    /// Page frame number.
    #[inline]
    pub fn pfn(&self) -> usize {
        // SAFETY: The folio is valid by the type invariant.
        unsafe { ffi::privmemfd_helper_folio_pfn(self.as_ptr()) }
    }

    /// NUMA node that the folio lies on.
    #[inline]
    pub fn nid(&self) -> i32 {
        // SAFETY: The folio is valid by the type invariant.
        unsafe { ffi::privmemfd_helper_folio_nid(self.as_ptr()) }
    }

    /// Zone that the folio lies in.
    pub fn zone(&self) -> Zone {
        // SAFETY: The folio is valid by the type invariant.
        match unsafe { ffi::privmemfd_helper_folio_zonenum(self.as_ptr()) } {
            #[cfg(CONFIG_ZONE_DMA)]
            bindings::zone_type_ZONE_DMA => Zone::Dma,
            #[cfg(CONFIG_ZONE_DMA32)]
            bindings::zone_type_ZONE_DMA32 => Zone::Dma32,
            bindings::zone_type_ZONE_MOVABLE => Zone::Movable,
            #[cfg(CONFIG_ZONE_DEVICE)]
            bindings::zone_type_ZONE_DEVICE => Zone::Device,
            _ => Zone::Normal,
        }
    }

    /// Page offset in the file that the folio belongs to, or belonged to if it has left it.
    #[inline]
    pub(crate) fn index_hint(&self) -> usize {
        // SAFETY: The folio is valid by the type invariant.
        unsafe {
            let fields = &raw const (*self.as_ptr()).__bindgen_anon_1.__bindgen_anon_1;
            (&raw const (*fields).__bindgen_anon_2.index).read_volatile()
        }
    }

    /// Tells whether the TDX module does not give the folio back before its TD is destroyed
    /// (`PG_reserved`). KVM has a reference to it for as long.
    #[inline]
    pub fn is_kept(&self) -> bool {
        // SAFETY: The folio is valid by the type invariant.
        unsafe { ffi::privmemfd_helper_folio_test_reserved(self.as_ptr()) }
    }

    /// Tells whether the memory of the folio must not be used: it has failed (`PG_hwpoison`), or is
    /// kept. Such a folio is not moved, given to a guest or erased.
    #[inline]
    pub fn is_unusable(&self) -> bool {
        // SAFETY: The folio is valid by the type invariant.
        unsafe { ffi::privmemfd_helper_folio_is_unusable(self.as_ptr()) }
    }

    /// [`Folio::has_content`], and not [`Folio::is_unusable`].
    #[inline]
    pub(crate) fn has_usable_content(&self) -> bool {
        // SAFETY: The folio is valid by the type invariant.
        unsafe { ffi::privmemfd_helper_folio_has_usable_content(self.as_ptr()) }
    }

    /// Tells whether the folio holds content that somebody may come back for (`PG_uptodate`).
    #[inline]
    pub fn has_content(&self) -> bool {
        // SAFETY: The folio is valid by the type invariant.
        unsafe { ffi::privmemfd_helper_folio_test_uptodate(self.as_ptr()) }
    }

    /// Takes the folio lock. May sleep.
    #[inline]
    pub fn lock(this: ARef<Self>) -> LockedFolio {
        // SAFETY: The folio is valid by the type invariant.
        unsafe { ffi::privmemfd_helper_folio_lock(this.as_ptr()) };
        // INVARIANT: The lock was taken on the line above; the reference is that of `this`.
        LockedFolio(ARef::into_raw(this))
    }
}

/// A folio whose lock is held.
///
/// # Invariants
///
/// The folio lock is held, on behalf of the borrower, while a `&Locked` exists.
#[repr(transparent)]
pub struct Locked(Folio);

impl Deref for Locked {
    type Target = Folio;

    #[inline]
    fn deref(&self) -> &Folio {
        &self.0
    }
}

impl Locked {
    /// Borrows a locked folio.
    ///
    /// # Safety
    ///
    /// `ptr` is a valid order-0 folio with a reference and with its lock held on behalf of the
    /// caller, both for all of `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::folio) -> &'a Self {
        // SAFETY: By the caller's promise; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    /// Page offset in the file that the folio belongs to.
    #[inline]
    pub fn index(&self) -> usize {
        // The index does not change while the lock is held.
        self.index_hint()
    }

    /// Page cache that the folio is in; null if it is in none.
    #[inline]
    pub(crate) fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: The folio is valid, and its mapping does not change while the lock is held.
        unsafe { (*self.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.mapping }
    }

    /// Inode number of the file that the folio is in.
    pub fn ino(&self) -> Option<u64> {
        let mapping = self.mapping();
        // SAFETY: A folio of order 0 that this crate knows and that is in a page cache is in that
        // of a private file, which cannot go before the folio has left it, for which it takes the
        // lock.
        (!mapping.is_null()).then(|| unsafe { Mapping::from_raw(mapping) }.ino())
    }

    /// Overwrites the content with zeroes.
    ///
    /// The caller makes sure that no guest maps the folio if the content matters to one.
    pub(crate) fn clear(&self) {
        // SAFETY: The folio is valid, of order 0, and kernel memory that can be written.
        unsafe { ffi::privmemfd_helper_clear_folio(self.as_ptr()) }
    }

    /// Copies the content of `src` here, machine checks handled. May sleep.
    ///
    /// # Errors
    ///
    /// `EHWPOISON`: the memory of `src` has failed. Part of the content may be here already.
    pub(crate) fn copy_from(&self, src: &Locked) -> Result {
        // SAFETY: Both folios are valid and of the same order.
        to_result(unsafe { bindings::folio_mc_copy(self.as_ptr(), src.as_ptr()) })
    }

    /// Says that the folio holds content, see [`Folio::has_content`].
    pub(crate) fn set_has_content(&self) {
        // SAFETY: The folio is valid and locked.
        unsafe { ffi::privmemfd_helper_folio_mark_uptodate(self.as_ptr()) }
    }

    /// Marks the memory of the folio as failed (`PG_hwpoison`): it goes to nobody else, and its
    /// memory block, once offline, does not come back.
    ///
    /// Does nothing in a kernel that does not deal with such memory.
    pub fn set_failed(&self) {
        // SAFETY: The folio is valid.
        if unsafe { ffi::privmemfd_helper_folio_mark_failed(self.as_ptr()) } {
            UNCOUNTED.add(self.pfn());
        }
    }

    /// Keeps mm from dropping the folio as clean page cache.
    pub(crate) fn set_dirty(&self) {
        // SAFETY: The folio is valid and locked; the mappings of these files have `noop_dirty_folio()`,
        // which does no more.
        unsafe { ffi::privmemfd_helper_folio_set_dirty(self.as_ptr()) };
    }
}

/// A locked folio and a reference to it: dropping it unlocks, then lets go.
///
/// # Invariants
///
/// The folio is valid. Its lock is held, and belongs to this object, as does a reference.
#[must_use = "the folio is unlocked at once when it is not used"]
pub struct LockedFolio(NonNull<Folio>);

impl LockedFolio {
    /// Takes over a reference and the lock.
    ///
    /// # Safety
    ///
    /// `ptr` is a valid order-0 folio; the caller owns a reference and the lock and gives both
    /// away.
    #[inline]
    pub(crate) unsafe fn own(ptr: NonNull<bindings::folio>) -> Self {
        // INVARIANT: Both are given to this object by the caller.
        Self(ptr.cast())
    }

    /// Keeps the reference.
    #[inline]
    pub fn unlock(self) -> ARef<Folio> {
        let ptr = ManuallyDrop::new(self).0;
        // SAFETY: By the type invariant, the lock is held and belongs to this object.
        unsafe { bindings::folio_unlock(ptr.as_ptr().cast()) };
        // SAFETY: By the type invariant, the reference belongs to this object, which is not dropped.
        unsafe { ARef::from_raw(ptr) }
    }

    /// Gives the reference and the lock to C.
    pub(crate) fn into_raw(self) -> *mut bindings::folio {
        ManuallyDrop::new(self).0.as_ptr().cast()
    }
}

impl Deref for LockedFolio {
    type Target = Locked;

    #[inline]
    fn deref(&self) -> &Locked {
        // SAFETY: By the type invariant, the folio is locked, and it is as long as `self` exists.
        unsafe { Locked::from_raw(self.0.as_ptr().cast()) }
    }
}

impl Drop for LockedFolio {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the lock is held and belongs to this object.
        unsafe { bindings::folio_unlock(self.0.as_ptr().cast()) };
        // SAFETY: By the type invariant, the reference belongs to this object.
        unsafe { Folio::dec_ref(self.0) };
    }
}

/// A folio that a page is to move to, locked. Dropping it unlocks, then lets go.
///
/// # Invariants
///
/// The folio was new, known to nobody else, when this object was made, which is the only one for it.
#[must_use = "the folio is free again at once when it is not used"]
pub struct NewFolio(LockedFolio);

impl NewFolio {
    /// Takes over a folio.
    ///
    /// # Safety
    ///
    /// The allocator has just given `folio` to the caller.
    #[inline]
    pub(crate) unsafe fn own(folio: ARef<Folio>) -> Self {
        // INVARIANT: By the caller's promise. Nobody has it, so this does not wait.
        Self(Folio::lock(folio))
    }
}

impl Deref for NewFolio {
    type Target = Locked;

    #[inline]
    fn deref(&self) -> &Locked {
        &self.0
    }
}

/// What nothing but a test may do.
#[cfg(CONFIG_KUNIT = "y")]
impl Locked {
    fn bytes(&self) -> *mut u8 {
        // SAFETY: The folio is valid; on 64-bit kernels all of memory is mapped.
        unsafe { ffi::privmemfd_helper_folio_address(self.as_ptr()).cast() }
    }

    /// Fills the folio with `byte`.
    pub fn test_fill(&self, byte: u8) {
        // SAFETY: `bytes()` is a page that this function may write under the folio lock.
        unsafe { self.bytes().write_bytes(byte, kernel::page::PAGE_SIZE) }
    }

    /// As [`Locked::test_fill`], as content.
    pub fn test_fill_content(&self, byte: u8) {
        self.test_fill(byte);
        self.set_has_content();
    }

    /// Takes [`Locked::set_failed`] back.
    pub fn test_unset_failed(&self) {
        // SAFETY: The folio is valid; a reference is put only where set_failed() has taken one.
        unsafe { ffi::privmemfd_helper_test_folio_unmark_failed(self.as_ptr()) }
        UNCOUNTED.test_forget(self.pfn());
    }

    /// Speaks for KVM, see [`Folio::is_kept`].
    pub fn test_set_kept(&self, kept: bool) {
        // SAFETY: The folio is valid; a reference is put only if PG_reserved tells that it was taken.
        unsafe { ffi::privmemfd_helper_test_folio_set_kept(self.as_ptr(), kept) }
    }

    /// Tells whether every byte of the folio is `byte`.
    pub fn test_all(&self, byte: u8) -> bool {
        // SAFETY: `bytes()` is an initialised page that nobody writes under the folio lock.
        unsafe { core::slice::from_raw_parts(self.bytes(), kernel::page::PAGE_SIZE) }
            .iter()
            .all(|b| *b == byte)
    }
}
