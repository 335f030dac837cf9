// SPDX-License-Identifier: GPL-2.0
//! Bindings that change while guests are off.
//! Expected: E0505

use kernel::prelude::*;
use privmemfd_kernel::{
    fs::private_file::Attached,
    kvm::{Provider, KVM},
};

/// Lets the lock go first.
pub fn hole<T: Provider>(file: &Attached<T>) -> Result {
    let held = file.mapping().lock_exclusive();
    let off = KVM.invalidate(file, 0..1, &held)?;
    drop(held);
    off.truncate();
    Ok(())
}
