// SPDX-License-Identifier: GPL-2.0
//! Guests that may not have been stopped.
//! Expected: E0599

use privmemfd_kernel::{
    fs::private_file::Attached,
    kvm::{Provider, KVM},
};

/// Goes on whatever the answer is.
pub fn hole<T: Provider>(file: &Attached<T>) {
    let held = file.mapping().lock_exclusive();
    KVM.invalidate(file, 0..1, &held).truncate();
}
