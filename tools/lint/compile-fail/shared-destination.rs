// SPDX-License-Identifier: GPL-2.0
//! Two pages that are to move to one folio.
//! Expected: E0499

use privmemfd_kernel::{
    kvm::{InPlace, Move},
    mm::folio::{LockedFolio, NewFolio},
};

/// The one would overwrite the other.
pub fn relocate(one: &mut LockedFolio, other: &mut LockedFolio, dst: &mut NewFolio) {
    let first = Move::<'_, InPlace>::new(one, dst);
    let second = Move::<'_, InPlace>::new(other, dst);
    drop((first, second));
}
