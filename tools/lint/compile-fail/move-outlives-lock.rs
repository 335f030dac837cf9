// SPDX-License-Identifier: GPL-2.0
//! A folio that is unlocked while it moves.
//! Expected: E0505

use kernel::prelude::*;
use privmemfd_kernel::{
    kvm::{InPlace, Move},
    mm::folio::{LockedFolio, NewFolio},
};

/// Unlocks it.
pub fn relocate(mut src: LockedFolio, mut dst: NewFolio) -> Result {
    let mut mv = Move::<'_, InPlace>::new(&mut src, &mut dst);
    drop(src);
    mv.take()?.commit()
}
