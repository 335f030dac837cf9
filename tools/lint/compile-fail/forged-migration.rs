// SPDX-License-Identifier: GPL-2.0
//! A wish that mm has not had.
//! Expected: E0451

use privmemfd_kernel::{fs::private_file::Migration, mm::folio::Locked};

/// mm has isolated nothing.
pub fn wish<'a>(src: &'a Locked, dst: &'a Locked) -> Migration<'a> {
    Migration { src, dst }
}
