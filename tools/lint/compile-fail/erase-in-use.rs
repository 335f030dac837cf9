// SPDX-License-Identifier: GPL-2.0
//! A page that is erased under a guest.
//! Expected: E0624

use privmemfd_kernel::mm::folio::Locked;

/// A TD's, maybe.
pub fn erase(folio: &Locked) {
    folio.clear();
}
