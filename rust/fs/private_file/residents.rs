// SPDX-License-Identifier: GPL-2.0

//! What private files have in a memory block that goes offline.

use super::{
    Attached,
    Kept,
    PrivateFile, //
};
use crate::{
    ffi,
    mm::{
        cond_resched,
        folio::LockedFolio,
        hotplug::Block, //
    }, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::alloc::KVVec;

/// Frames that are looked at between two chances for other tasks to run.
const STEP: usize = 4096;

/// Where a folio was seen. May be wrong as soon as it is known.
#[derive(Copy, Clone)]
pub struct Sighting {
    /// Address of the mapping; a name, nothing else.
    mapping: usize,
    index: usize,
    pfn: usize,
}

impl Sighting {
    /// Whether both are of one file.
    pub fn same_file(&self, other: &Self) -> bool {
        self.mapping == other.mapping
    }

    /// Its offset in the file, in pages.
    pub fn index(&self) -> usize {
        self.index
    }
}

/// The folios in a block that are in files of `T`.
pub struct Residents<'a, T> {
    block: &'a Block<'a>,
    /// The first frame that was not looked at.
    next: usize,
    _t: PhantomData<fn(T)>,
}

impl<'a, T: PrivateFile> Residents<'a, T> {
    pub(super) fn new(block: &'a Block<'a>) -> Self {
        Self {
            block,
            next: block.pfns().start,
            _t: PhantomData,
        }
    }

    /// The block.
    pub fn block(&self) -> &Block<'a> {
        self.block
    }

    /// Looks at the next frames until `seen`, which is emptied, is as full as its capacity, or the
    /// block has ended: then it is empty. Takes no reference. May sleep.
    pub fn look(&mut self, seen: &mut KVVec<Sighting>) {
        let end = self.block.pfns().end;
        seen.clear();
        while self.next < end && seen.len() < seen.capacity() {
            let until = end.min(self.next + STEP);
            while self.next < until && seen.len() < seen.capacity() {
                let mut found = ffi::privmemfd_sighting::default();
                // SAFETY: Frames of the block have a `struct page` while it is borrowed.
                let any = unsafe {
                    ffi::privmemfd_helper_find_folio(
                        &mut self.next,
                        until,
                        &T::tables().mapping,
                        &mut found,
                    )
                };
                if any {
                    let sighting = Sighting {
                        mapping: found.mapping as usize,
                        index: found.index,
                        pfn: found.pfn,
                    };
                    // There is room.
                    let _ = seen.push_within_capacity(sighting);
                }
            }
            cond_resched();
        }
    }

    /// Keeps the file of a folio, if that is where it was seen; `None` also if its lock is taken, or
    /// the release of the file has begun.
    pub fn file(&self, seen: &Sighting) -> Option<Kept<T>> {
        let pfn = self.pfn_of(seen)?;
        // SAFETY: Frames of the block have a `struct page` while it is borrowed.
        let folio = unsafe { ffi::privmemfd_helper_trylock_folio(pfn, &T::tables().mapping) };
        // SAFETY: If there is one, it is of order 0, as all in these files, and locked, with a
        // reference, both for the caller.
        let folio = NonNull::new(folio).map(|folio| unsafe { LockedFolio::own(folio) })?;
        // SAFETY: The folio is in a file of `T`, and it is locked.
        unsafe { Attached::<T>::from_mapping(folio.mapping()) }.keep()
    }

    /// Locks a folio, if it is in the file at the offset where it was seen, and that needs no waiting.
    pub fn try_lock(&self, file: &Attached<T>, seen: &Sighting) -> Option<LockedFolio> {
        let pfn = self.pfn_of(seen)?;
        let mapping = file.mapping().as_ptr();
        // SAFETY: Frames of the block have a `struct page` while it is borrowed.
        let folio = unsafe { ffi::privmemfd_helper_trylock_folio_in(pfn, mapping) };
        // SAFETY: If there is one, it is of order 0, as all in these files, and locked, with a
        // reference, both for the caller.
        let folio = NonNull::new(folio).map(|folio| unsafe { LockedFolio::own(folio) })?;
        file.mapping().has_at(seen.index, &folio).then_some(folio)
    }

    /// The frame of a sighting, if it is one of the block.
    fn pfn_of(&self, seen: &Sighting) -> Option<usize> {
        self.block.pfns().contains(&seen.pfn).then_some(seen.pfn)
    }
}
