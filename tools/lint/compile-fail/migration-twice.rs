// SPDX-License-Identifier: GPL-2.0
//! A wish of mm's that is granted twice at a time.
//! Expected: E0499

use privmemfd_kernel::{fs::private_file::Migration, kvm::Move};

/// Both would move the same page.
pub fn relocate(migration: &mut Migration<'_>) {
    let first = Move::of(migration);
    let second = Move::of(migration);
    drop((first, second));
}
