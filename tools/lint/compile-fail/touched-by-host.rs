// SPDX-License-Identifier: GPL-2.0
//! A TD's page that the host makes its own.
//! Expected: E0308

use privmemfd_kernel::{mm::folio::Locked, tdx};

/// Of any folio.
pub fn take(folio: &Locked) {
    tdx::take_back(folio);
}
