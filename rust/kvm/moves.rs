// SPDX-License-Identifier: GPL-2.0

//! One folio on its way to another place: `struct kvm_gmem_move`, `struct kvm_gfn_move`.

use crate::{
    ffi,
    mm::folio::Locked, //
};
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// How far KVM has brought a [`Move`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Guests are kept off `src`; the content is still there.
    Quiesced,
    /// The content is in `dst`, and guests use it there.
    Moved,
}

/// One folio on its way, for [`super::Kvm::relocate`].
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

    /// Ends a move that has not been made by anybody.
    pub(super) fn refuse(&mut self, e: Error) {
        if self.0.result == ffi::KVM_GMEM_MOVE_COPY as i32 {
            self.0.result = e.to_errno();
        }
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
pub struct GfnMove<'a>(ffi::kvm_gfn_move, PhantomData<&'a mut Move<'a>>);

impl GfnMove<'_> {
    /// Most moves at once.
    pub const BATCH: usize = ffi::KVM_GFN_MOVE_BATCH as usize;

    /// Guest physical address of the page.
    pub fn gpa(&self) -> u64 {
        self.0.gfn << kernel::page::PAGE_SHIFT
    }

    /// The folio that is to make room.
    pub fn src(&self) -> &Locked {
        // SAFETY: By the type invariant.
        unsafe { Locked::from_raw((*self.0.move_).src) }
    }

    /// The folio that is to take its place.
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
