// SPDX-License-Identifier: GPL-2.0
//! A page that is said to have content, and has somebody else's.
//! Expected: E0624

use privmemfd_kernel::mm::folio::Locked;

/// Nobody has written it.
pub fn claim(folio: &Locked) {
    folio.set_has_content();
}
