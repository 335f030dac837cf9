// SPDX-License-Identifier: GPL-2.0
//! A page that is to move to a folio that others know.
//! Expected: E0308

use privmemfd_kernel::{
    kvm::{InPlace, Move},
    mm::folio::LockedFolio,
};

/// It may be on a list, or the TDX module's.
pub fn relocate(src: &mut LockedFolio, dst: &mut LockedFolio) {
    let _ = Move::<'_, InPlace>::new(src, dst);
}
