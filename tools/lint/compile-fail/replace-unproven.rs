// SPDX-License-Identifier: GPL-2.0
//! A folio takes the place of one that guests use.
//! Expected: E0603

use privmemfd_kernel::mm::{
    folio::Locked,
    mapping::{replace_folio, Lru},
};

/// Nobody has asked KVM.
pub fn replace(src: &Locked, dst: &Locked) {
    replace_folio(src, dst, Lru::InPlace);
}
