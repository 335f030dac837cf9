// SPDX-License-Identifier: GPL-2.0
//! A folio that is unlocked while it moves.
//! Expected: E0505

use kernel::prelude::*;
use privmemfd_kernel::{
    kvm::{InPlace, Move},
    mm::folio::LockedFolio,
};

/// Unlocks it.
pub fn relocate(src: LockedFolio, dst: LockedFolio) -> Result {
    let mut mv = Move::<'_, InPlace>::new(&src, &dst);
    drop(src);
    mv.take()?.commit()
}
