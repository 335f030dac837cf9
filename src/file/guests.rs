// SPDX-License-Identifier: GPL-2.0

//! The guests of a file: who is to be kept off its pages, by KVM.

use super::Attachment;
use crate::relocate::Guests;
use core::ops::Range;
use kernel::prelude::*;
use privmemfd_kernel::{
    kvm::{
        Invalidation,
        Move,
        Origin,
        KVM, //
    },
    mm::mapping::Held, //
};

/// The VMs that a file is bound to, as the relocation engine sees them.
pub(super) struct BoundGuests<'a>(pub(super) &'a Attachment);

impl Guests for BoundGuests<'_> {
    fn quiesce<O: Origin>(&self, moves: &mut [Move<'_, O>], held: &impl Held) -> Result {
        KVM.relocate(self.0, moves, held)
    }
}

/// Unmaps `pages` in every VM for as long as the result lives.
///
/// # Errors
///
/// `EINVAL`: `held` is the lock of another file.
pub(super) fn keep_guests_off<'a, H: Held>(
    file: &'a Attachment,
    pages: Range<usize>,
    held: &'a H,
) -> Result<Invalidation<'a, H>> {
    KVM.invalidate(file, pages, held)
}
