// SPDX-License-Identifier: GPL-2.0
//! A page that the host prepares for a TD that it is not moved in.
//! Expected: E0308

use privmemfd_kernel::{mm::folio::Locked, tdx};

/// Of any folio.
pub fn give(folio: &Locked) {
    tdx::give(folio);
}
