// SPDX-License-Identifier: GPL-2.0

//! The page cache of one file: `struct address_space`.
//!
//! [`Mapping`] is borrowed from the file that owns it and dies with it. What needs the
//! `invalidate_lock` asks for the guard that proves it: [`Exclusive`] to remove pages, [`Held`]
//! (either guard) to put one folio in the place of another.
//!
//! C headers: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h)

use super::{
    folio::{
        Folio,
        Locked,
        LockedFolio,
        NewFolio, //
    },
    folio_batch::{
        FolioBatch,
        Placement, //
    }, //
};
use crate::ffi;
use core::{
    mem::ManuallyDrop,
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::ARef,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// How many pages may go while everybody else is kept from the file: a large page's.
pub const CHUNK: usize = 512;

/// Where the pages of a file may be put.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Mobility {
    /// The owner can give every page another place: `ZONE_MOVABLE` and CMA are allowed.
    Movable,
    /// Pages stay where they are for the life of the file.
    Pinned,
}

/// Where one new page comes from.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// By the memory policy of the current task.
    Any,
    /// From this node if it has free memory.
    Prefer(i32),
    /// From this node or not at all.
    Only(i32),
}

/// `struct address_space`: the pages of one file.
#[repr(transparent)]
pub struct Mapping(Opaque<bindings::address_space>);

// SAFETY: An address space belongs to no thread; all methods are C functions that lock.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Borrows a mapping.
    ///
    /// # Safety
    ///
    /// `ptr` is the mapping of a private file (see [`crate::fs::private_file`]), initialised, and
    /// stays valid for all of `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::address_space) -> &'a Self {
        // SAFETY: By the caller's promise; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::address_space {
        // Opaque::get() is a call where the kernel is compiled for size.
        (&raw const self.0).cast_mut().cast()
    }

    fn inode(&self) -> *mut bindings::inode {
        // SAFETY: The mapping is valid, and its host never changes.
        unsafe { (*self.as_ptr()).host }
    }

    /// Inode number of the file.
    pub fn ino(&self) -> u64 {
        // SAFETY: The inode is valid, and its number does not change.
        unsafe { (*self.inode()).i_ino }
    }

    /// Size of the file in bytes; a multiple of the page size.
    pub fn size(&self) -> usize {
        // SAFETY: The inode is valid.
        let size = unsafe { ffi::privmemfd_helper_i_size_read(self.inode()) };
        usize::try_from(size).unwrap_or(0)
    }

    /// Number of pages that have memory.
    pub fn nr_pages(&self) -> usize {
        // SAFETY: The mapping is valid; the counter may be read without a lock, torn reads do not
        // happen to a word.
        unsafe { core::ptr::read_volatile(&raw const (*self.as_ptr()).nrpages) }
    }

    /// Sets up a mapping that nobody else sees yet.
    pub(crate) fn init(&self, mobility: Mobility) {
        match mobility {
            Mobility::Movable => {
                // SAFETY: The mapping is valid and not in use yet.
                unsafe { ffi::privmemfd_helper_mapping_set_unevictable(self.as_ptr()) };
            }
            Mobility::Pinned => {
                // Includes unevictable. mm never tries to migrate such pages.
                // SAFETY: The mapping is valid and not in use yet.
                unsafe { ffi::privmemfd_helper_mapping_set_inaccessible(self.as_ptr()) };
            }
        }
        // SAFETY: The mapping is valid and not in use yet.
        unsafe { ffi::privmemfd_helper_mapping_set_gfp_mask(self.as_ptr(), gfp(mobility)) };
    }

    /// Takes the `invalidate_lock` shared. May sleep.
    ///
    /// Not under a folio lock and not in a callback of mm: see [`Mapping::try_lock_shared`].
    pub fn lock_shared(&self) -> Shared<'_> {
        // SAFETY: The mapping is valid.
        unsafe { ffi::privmemfd_helper_filemap_invalidate_lock_shared(self.as_ptr()) };
        Shared(self, NotThreadSafe)
    }

    /// Takes the `invalidate_lock` shared if that needs no waiting.
    ///
    /// The one to use from `migrate_folio`: direct compaction may run in a task that holds the
    /// lock exclusive, or that waits for a folio lock under it.
    pub fn try_lock_shared(&self) -> Option<Shared<'_>> {
        // SAFETY: The mapping is valid.
        let taken =
            unsafe { ffi::privmemfd_helper_filemap_invalidate_trylock_shared(self.as_ptr()) };
        // Not then_some(): a guard that is made releases the lock when it is dropped.
        (taken != 0).then(|| Shared(self, NotThreadSafe))
    }

    /// Takes the `invalidate_lock` exclusive. May sleep; not under a folio lock.
    pub fn lock_exclusive(&self) -> Exclusive<'_> {
        // SAFETY: The mapping is valid.
        unsafe { ffi::privmemfd_helper_filemap_invalidate_lock(self.as_ptr()) };
        Exclusive(self, NotThreadSafe)
    }

    /// The folio at page offset `index`, if there is one. May sleep.
    pub fn lock_folio(&self, index: usize) -> Option<LockedFolio> {
        // SAFETY: The mapping is valid.
        let ptr = unsafe { ffi::privmemfd_helper_filemap_lock_folio(self.as_ptr(), index) };
        let ptr = NonNull::new(from_err_ptr(ptr).ok()?)?;
        // SAFETY: On success the function returns a locked folio with a reference for the caller.
        Some(unsafe { LockedFolio::own(ptr) })
    }

    /// Whether `folio` is the one at page offset `index`.
    #[inline]
    pub fn has_at(&self, index: usize, folio: &Locked) -> bool {
        folio.mapping() == self.as_ptr() && folio.index() == index
    }

    /// A new folio at page offset `index`, where none was just now; or the one that somebody else was
    /// faster with. May sleep.
    ///
    /// A new folio has no content, is charged to the memory cgroup of the current task and is
    /// dirty, so that mm does not drop it as clean page cache.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory, or the limit of the memory cgroup is reached. `EINVAL`: `index` is beyond
    /// the end of the file.
    pub fn alloc_or_lock_folio(
        &self,
        index: usize,
        mobility: Mobility,
        node: Node,
    ) -> Result<LockedFolio> {
        // Release would leave it behind.
        if index >= self.size() >> PAGE_SHIFT {
            return Err(EINVAL);
        }
        loop {
            let folio = placement(mobility, node)?.alloc_one()?;
            // SAFETY: Mapping and folio are valid, the folio is new, in no mapping and on no list.
            let ret = unsafe {
                bindings::filemap_add_folio(self.as_ptr(), folio.as_ptr(), index, gfp(mobility))
            };
            match to_result(ret) {
                // Ends: either the folio stays and is found, or it is removed, which only happens a
                // finite number of times per request for it.
                Err(e) if e == EEXIST => match self.lock_folio(index) {
                    Some(other) => return Ok(other),
                    None => continue,
                },
                Err(e) => return Err(e),
                Ok(()) => {}
            }
            // SAFETY: filemap_add_folio() locked the folio for its caller, who has a reference.
            let folio = unsafe { LockedFolio::own(ARef::into_raw(folio).cast()) };
            folio.set_dirty();
            return Ok(folio);
        }
    }

    /// Takes a folio out of the file whose memory must not be used any more, see
    /// [`Folio::is_unusable`]. Waits for nobody.
    ///
    /// Guests that map it may go on to do so: it goes to nobody else.
    ///
    /// # Errors
    ///
    /// `EINVAL`, and nothing has changed: the folio is not in this file, or good.
    pub fn expel(&self, folio: &Locked) -> Result {
        if folio.mapping() != self.as_ptr() || !folio.is_unusable() {
            return Err(EINVAL);
        }
        // SAFETY: The folio is locked and in this mapping, that of a regular file.
        to_result(unsafe { bindings::generic_error_remove_folio(self.as_ptr(), folio.as_ptr()) })
    }

    /// Cuts a range that is to lose its pages into parts of at most [`CHUNK`] pages and whatever
    /// holes lie between these: the `invalidate_lock` is held for one part at a time, so that
    /// nobody is kept from the file for longer. The parts make up the range, in rising order.
    ///
    /// Pages that come meanwhile may make a part larger. May sleep.
    pub fn chunks(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut rest = range;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = match self.first_folio(rest.clone()) {
                Some(first) => rest.end.min(first.saturating_add(CHUNK)),
                None => rest.end,
            };
            let part = rest.start..end;
            rest.start = end;
            Some(part)
        })
    }

    /// The page offset of the first folio in `range` (page offsets); it may have left by now.
    fn first_folio(&self, range: Range<usize>) -> Option<usize> {
        let mut first = None;
        let _ = self.for_each_folio(range.clone(), |index, _| {
            first = Some(index.max(range.start));
            Err(EINTR)
        });
        first
    }

    /// Calls `f` with each folio in `range` (page offsets) and its offset, in rising order.
    ///
    /// No lock is held over `f`, so the folio may leave the file at any time. Sleeps between
    /// batches. Stops at the first error.
    pub fn for_each_folio(
        &self,
        range: Range<usize>,
        mut f: impl FnMut(usize, ARef<Folio>) -> Result,
    ) -> Result {
        if range.is_empty() {
            return Ok(());
        }
        let mut start = range.start;
        let mut batch = FolioBatch::new();
        loop {
            // SAFETY: Mapping and batch are valid; the batch is empty.
            let found = unsafe {
                bindings::filemap_get_folios(
                    self.as_ptr(),
                    &mut start,
                    range.end - 1,
                    batch.as_mut_ptr(),
                )
            };
            if found == 0 {
                super::cond_resched();
                return Ok(());
            }
            batch.drain(|folio| f(folio.index_hint(), folio))?;
            super::cond_resched();
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Shared<'_> {}
    impl Sealed for super::Exclusive<'_> {}
}

/// Proof that the `invalidate_lock` of a mapping is held: no page goes away, but for those that
/// fail, and no memslot is bound or unbound.
pub trait Held: sealed::Sealed {
    /// The mapping whose lock is held.
    fn mapping(&self) -> &Mapping;
}

/// The `invalidate_lock`, shared.
#[must_use = "the lock is released at once when the guard is not used"]
pub struct Shared<'a>(&'a Mapping, NotThreadSafe);

impl Held for Shared<'_> {
    fn mapping(&self) -> &Mapping {
        self.0
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        // SAFETY: The guard holds the lock.
        unsafe { ffi::privmemfd_helper_filemap_invalidate_unlock_shared(self.0.as_ptr()) }
    }
}

/// The `invalidate_lock`, exclusive.
#[must_use = "the lock is released at once when the guard is not used"]
pub struct Exclusive<'a>(&'a Mapping, NotThreadSafe);

impl Held for Exclusive<'_> {
    fn mapping(&self) -> &Mapping {
        self.0
    }
}

impl<'a> Exclusive<'a> {
    /// Borrows the lock from whoever holds it.
    ///
    /// # Safety
    ///
    /// The lock is held exclusive, on behalf of the caller, until the result is dropped.
    pub(crate) unsafe fn borrow(mapping: &'a Mapping) -> ManuallyDrop<Self> {
        ManuallyDrop::new(Self(mapping, NotThreadSafe))
    }

    /// Removes the pages in `range` (page offsets) from the file. May sleep.
    ///
    /// Waits for the lock of each folio. The caller has made sure that no guest maps them.
    pub(crate) fn truncate(&self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let first = (range.start << PAGE_SHIFT) as bindings::loff_t;
        // SAFETY: The mapping is valid; the range is page aligned and not empty.
        unsafe {
            bindings::truncate_inode_pages_range(
                self.0.as_ptr(),
                first,
                // Inclusive.
                ((range.end << PAGE_SHIFT) - 1) as bindings::uoff_t,
            )
        }
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        // SAFETY: The guard holds the lock.
        unsafe { ffi::privmemfd_helper_filemap_invalidate_unlock(self.0.as_ptr()) }
    }
}

/// Who takes care of the LRU lists when a folio takes the place of another.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Lru {
    /// mm: it has taken the old folio off its list, and puts the new one on one.
    Isolated,
    /// Whoever replaces it; the old folio leaves its list, if it is on one, when it is freed.
    InPlace,
}

/// Puts `dst` in the place of `src` in the page cache. Cannot fail.
///
/// `src` is in a mapping, `dst` is in none, and guests are kept off `src`; if `src` has left its file
/// since that was so, nothing is changed, and it says no.
///
/// `dst` takes over that there is content (or not); it is dirty like every page of the mapping.
/// `src` leaves the file: its `free_folio` callback runs, references that others hold stay good.
pub(crate) fn replace_folio(src: &Locked, dst: &Locked, lru: Lru) -> bool {
    if src.mapping().is_null() || !dst.mapping().is_null() {
        return false;
    }
    let content = src.has_content();

    // SAFETY: Both folios are valid and locked; `src` is in a page cache and `dst` is in none, as
    // was just checked, and both stay that way while they are locked.
    unsafe { bindings::replace_page_cache_folio(src.as_ptr(), dst.as_ptr()) };
    if content {
        dst.set_has_content();
    }
    dst.set_dirty();
    match lru {
        Lru::Isolated => {
            // mm frees `src` without putting it back on a list, where these would be cleared.
            // SAFETY: The folio is valid and on no list.
            unsafe { ffi::privmemfd_helper_folio_clear_active(src.as_ptr()) };
            // SAFETY: As above.
            unsafe { ffi::privmemfd_helper_folio_clear_unevictable(src.as_ptr()) };
        }
        // SAFETY: The folio is valid, in the page cache since just now, and so on no list yet.
        Lru::InPlace => unsafe { bindings::folio_add_lru(dst.as_ptr()) },
    }
    true
}

/// Hands `count` new folios of order 0, in no mapping and uncharged, to `take`. May sleep.
///
/// # Errors
///
/// `ENOMEM`: no memory (on that node). `take` has got as many as there were.
pub fn alloc_folios(
    mobility: Mobility,
    node: Node,
    count: usize,
    take: impl FnMut(NewFolio),
) -> Result {
    placement(mobility, node)?.alloc(count, take)
}

/// `ENOMEM`: there is no such node.
fn placement(mobility: Mobility, node: Node) -> Result<Placement> {
    let mask = gfp(mobility);
    let policy = || Placement::policy(mask);
    match node {
        Node::Any => Ok(policy()),
        Node::Prefer(nid) => Ok(Placement::node(mask, nid).unwrap_or_else(policy)),
        Node::Only(nid) => Placement::node(mask | ffi::PRIVMEMFD_GFP_THISNODE, nid).ok_or(ENOMEM),
    }
}

fn gfp(mobility: Mobility) -> bindings::gfp_t {
    match mobility {
        Mobility::Movable => ffi::PRIVMEMFD_GFP_MOVABLE,
        Mobility::Pinned => ffi::PRIVMEMFD_GFP_PINNED,
    }
}
