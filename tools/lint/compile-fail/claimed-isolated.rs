// SPDX-License-Identifier: GPL-2.0
//! A folio of which somebody says that mm has isolated it.
//! Expected: E0599

use privmemfd_kernel::{
    kvm::{Isolated, Move},
    mm::folio::{LockedFolio, NewFolio},
};

/// mm has not.
pub fn relocate(src: &mut LockedFolio, dst: &mut NewFolio) {
    let _ = Move::<'_, Isolated>::new(src, dst);
}
