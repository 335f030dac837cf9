// SPDX-License-Identifier: GPL-2.0
//! A page that is overwritten under a guest.
//! Expected: E0624

use kernel::prelude::*;
use privmemfd_kernel::mm::folio::Locked;

/// Whoever uses it.
pub fn copy(dst: &Locked, src: &Locked) -> Result {
    dst.copy_from(src)
}
