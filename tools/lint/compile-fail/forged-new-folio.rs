// SPDX-License-Identifier: GPL-2.0
//! A folio of which somebody says that it is new.
//! Expected: E0423

use privmemfd_kernel::mm::folio::{LockedFolio, NewFolio};

/// It may be in a file.
pub fn new(folio: LockedFolio) -> NewFolio {
    NewFolio(folio)
}
