// SPDX-License-Identifier: GPL-2.0

//! One folio on its way to another place: `struct kvm_gmem_move`, `struct kvm_gfn_move`.

use crate::{
    ffi,
    fs::private_file::Migration,
    mm::{
        folio::{
            Locked,
            LockedFolio,
            NewFolio, //
        },
        mapping::{
            replace_folio,
            Lru, //
        }, //
    }, //
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

/// Where mm has the folio that is to make room.
pub trait Origin: sealed::Sealed {
    /// Who takes care of the LRU lists.
    #[doc(hidden)]
    const LRU: Lru;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Isolated {}
    impl Sealed for super::InPlace {}
}

/// mm has isolated it.
pub struct Isolated;

/// It is where it was.
pub struct InPlace;

impl Origin for Isolated {
    const LRU: Lru = Lru::Isolated;
}

impl Origin for InPlace {
    const LRU: Lru = Lru::InPlace;
}

/// `result` of a move that nobody was asked to make.
const NOT_ASKED: i32 = -(bindings::EINPROGRESS as i32);

/// One folio on its way, for [`super::Kvm::relocate`].
///
/// # Invariants
///
/// `src` and `dst` are borrowed for `'a`, by this move alone. If `result` is `KVM_GMEM_MOVE_DONE`, `dst` is in the place
/// of `src`; if it is `KVM_GMEM_MOVE_COPY`, guests are kept off `src` as long as it is locked.
#[repr(transparent)]
pub struct Move<'a, O>(ffi::kvm_gmem_move, Borrows<'a, O>);

/// What a [`Move`] holds, besides the pointers that C sees.
type Borrows<'a, O> = PhantomData<(&'a mut LockedFolio, &'a mut NewFolio, fn(O))>;

impl<'a> Move<'a, InPlace> {
    /// `src` is to make room for `dst`.
    pub fn new(src: &'a mut LockedFolio, dst: &'a mut NewFolio) -> Self {
        Self::between(src, dst)
    }
}

impl<'a> Move<'a, Isolated> {
    /// What mm has asked for.
    pub fn of(migration: &'a mut Migration<'_>) -> Self {
        Self::between(migration.src(), migration.dst())
    }
}

impl<'a, O: Origin> Move<'a, O> {
    fn between(src: &'a Locked, dst: &'a Locked) -> Self {
        Self(
            ffi::kvm_gmem_move {
                index: src.index(),
                src: src.as_ptr(),
                dst: dst.as_ptr(),
                result: NOT_ASKED,
            },
            PhantomData,
        )
    }

    /// The memory of `moves`, empty, for others.
    pub fn recycle<'b>(mut moves: KVec<Self>) -> KVec<Move<'b, O>> {
        moves.clear();
        let (ptr, _, capacity) = moves.into_raw_parts();
        // SAFETY: By into_raw_parts(), `ptr` is an allocation of KVec's for `capacity` of what differs
        // from `Move<'b, O>` in a lifetime only. None is in it.
        unsafe { KVec::from_raw_parts(ptr.cast(), 0, capacity) }
    }

    /// The folio that is to make room.
    #[inline]
    pub fn src(&self) -> &'a Locked {
        // SAFETY: between() had it from a `&'a Locked`, and KVM does not change it.
        unsafe { Locked::from_raw(self.0.src) }
    }

    /// The folio that is to take its place.
    #[inline]
    pub fn dst(&self) -> &'a Locked {
        // SAFETY: between() had it from a `&'a Locked`, and KVM does not change it.
        unsafe { Locked::from_raw(self.0.dst) }
    }

    /// With no host, no VM can be bound: guests are off.
    pub(super) fn begin(&mut self) {
        self.0.result = ffi::KVM_GMEM_MOVE_COPY as i32;
    }

    /// Ends a move that has not been made by anybody.
    pub(super) fn refuse(&mut self, e: Error) {
        if self.0.result == ffi::KVM_GMEM_MOVE_COPY as i32 {
            self.0.result = e.to_errno();
        }
    }

    /// What the hardware has moved cannot be taken back: the file follows at once. What is left in the
    /// old folio is erased, also if it had no content yet that the host knows of.
    pub(super) fn follow(&self) {
        if self.0.result == ffi::KVM_GMEM_MOVE_DONE as i32 {
            self.src().set_has_content();
            replace_folio(self.src(), self.dst(), O::LRU);
        }
    }

    /// The page, if guests are kept off it. Once.
    ///
    /// # Errors
    ///
    /// KVM could not do it, or was not asked; nothing has changed for this folio.
    pub fn take(&mut self) -> Result<Quiesced<'a, O>> {
        let result = core::mem::replace(&mut self.0.result, NOT_ASKED);
        to_result(result)?;
        let moved = result == ffi::KVM_GMEM_MOVE_DONE as i32;
        Ok(Quiesced {
            src: self.src(),
            dst: self.dst(),
            content: if moved { Content::Moved } else { Content::Old },
            _origin: PhantomData,
        })
    }
}

/// Speaks for [`super::Kvm::relocate`].
#[cfg(CONFIG_KUNIT = "y")]
impl<O: Origin> Move<'_, O> {
    /// Ends it with a `result` of `struct kvm_gmem_move`.
    pub fn test_end(&mut self, result: i32) {
        self.0.result = result;
        self.follow();
    }
}

/// Where the content of a [`Quiesced`] page is.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Content {
    /// In `src` only.
    Old,
    /// In part in `dst` as well.
    Partial,
    /// In `dst` as well.
    Copied,
    /// In `dst` only, which is in the file.
    Moved,
}

/// A page that guests are kept off. Dropped, it is where it was, and what was copied of it is
/// erased; unless the hardware has moved it.
#[must_use = "the page is where it was when it is dropped"]
pub struct Quiesced<'a, O: Origin> {
    src: &'a Locked,
    dst: &'a Locked,
    content: Content,
    _origin: PhantomData<fn(O)>,
}

impl<O: Origin> Quiesced<'_, O> {
    /// Whether nobody uses the new folio. It does not get into a file without its lock, which is held.
    fn dst_is_free(&self) -> bool {
        self.dst.mapping().is_null()
    }

    /// Whether the content is in the new folio, and guests use it there.
    pub fn is_moved(&self) -> bool {
        self.content == Content::Moved
    }

    /// Copies the content, if there is one, machine checks handled. May sleep.
    ///
    /// # Errors
    ///
    /// `EHWPOISON`: the memory of the old folio has failed, or the TDX module keeps it. `EINVAL`: the
    /// hardware has moved it, or the new folio is in a file by another move of the two.
    pub fn copy(&mut self) -> Result {
        if self.is_moved() || !self.dst_is_free() {
            return Err(EINVAL);
        }
        if self.src.is_unusable() {
            return Err(EHWPOISON);
        }
        if self.src.has_content() {
            self.content = Content::Partial;
            self.dst.copy_from(self.src)?;
        }
        self.content = Content::Copied;
        Ok(())
    }

    /// Puts the new folio in the place of the old one, which leaves the file and is erased.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the content was not copied, or the old folio has been taken out of the file since.
    /// Cannot fail if the hardware has moved it.
    pub fn commit(mut self) -> Result {
        let done = match self.content {
            Content::Old | Content::Partial => false,
            Content::Copied => replace_folio(self.src, self.dst, O::LRU),
            Content::Moved => true,
        };
        if !done {
            return Err(EINVAL);
        }
        self.content = Content::Moved;
        Ok(())
    }
}

impl<O: Origin> Drop for Quiesced<'_, O> {
    fn drop(&mut self) {
        if matches!(self.content, Content::Partial | Content::Copied) && self.dst_is_free() {
            self.dst.clear();
        }
    }
}

/// What has become of the folio that was to make room. KVM keeps what is not settled until the TD
/// is destroyed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// It is the TD's as before, or the host's.
    Settled,
    /// It may be the TD's, and cannot be taken back.
    Owned,
    /// It is the host's, but caches may hold lines of the TD's.
    Cached,
}

/// A [`Move`] as the page table of one VM sees it.
///
/// # Invariants
///
/// The move is valid and its folios are locked, for `'a`.
#[repr(transparent)]
pub struct GfnMove<'a>(ffi::kvm_gfn_move, PhantomData<&'a mut Locked>);

impl GfnMove<'_> {
    /// Most moves at once.
    pub const BATCH: usize = ffi::KVM_GFN_MOVE_BATCH as usize;

    /// Guest physical address of the page.
    pub fn gpa(&self) -> u64 {
        self.0.gfn << kernel::page::PAGE_SHIFT
    }

    /// The folio that is to make room.
    #[inline]
    pub fn src(&self) -> &Locked {
        // SAFETY: By the type invariant.
        unsafe { Locked::from_raw((*self.0.move_).src) }
    }

    /// The folio that is to take its place.
    #[inline]
    pub fn dst(&self) -> &Locked {
        // SAFETY: By the type invariant.
        unsafe { Locked::from_raw((*self.0.move_).dst) }
    }

    /// Says how it has ended: the content is in `dst`, and the guest uses it there; or the TD has
    /// `src` as before. And what has become of `src`, if that does not say it.
    pub fn set_result(&mut self, result: Result, src: Source) {
        self.0.src = match src {
            Source::Settled => ffi::KVM_GFN_MOVE_SRC_SETTLED,
            Source::Owned => ffi::KVM_GFN_MOVE_SRC_OWNED,
            Source::Cached => ffi::KVM_GFN_MOVE_SRC_CACHED,
        };
        let result = match result {
            Ok(()) => ffi::KVM_GMEM_MOVE_DONE as i32,
            Err(e) => e.to_errno(),
        };
        // SAFETY: By the type invariant.
        unsafe { (*self.0.move_).result = result };
    }
}
