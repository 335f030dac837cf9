// SPDX-License-Identifier: GPL-2.0
//! A page that is to move to two folios.
//! Expected: E0499

use privmemfd_kernel::{
    kvm::{InPlace, Move},
    mm::folio::{LockedFolio, NewFolio},
};

/// Only one of them can take its place.
pub fn relocate(src: &mut LockedFolio, one: &mut NewFolio, other: &mut NewFolio) {
    let first = Move::<'_, InPlace>::new(src, one);
    let second = Move::<'_, InPlace>::new(src, other);
    drop((first, second));
}
