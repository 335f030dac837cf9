// SPDX-License-Identifier: GPL-2.0
//! Pages go away while others move them.
//! Expected: E0599

use kernel::prelude::*;
use privmemfd_kernel::{
    fs::private_file::Attached,
    kvm::{Provider, KVM},
};

/// The lock is shared.
pub fn hole<T: Provider>(file: &Attached<T>) -> Result {
    let held = file.mapping().lock_shared();
    KVM.invalidate(file, 0..1, &held)?.truncate();
    Ok(())
}
