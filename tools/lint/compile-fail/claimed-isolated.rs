// SPDX-License-Identifier: GPL-2.0
//! A folio of which somebody says that mm has isolated it.
//! Expected: E0599

use privmemfd_kernel::{
    kvm::{Isolated, Move},
    mm::folio::LockedFolio,
};

/// mm has not.
pub fn relocate(src: &LockedFolio, dst: &LockedFolio) {
    let _ = Move::<'_, Isolated>::new(src, dst);
}
