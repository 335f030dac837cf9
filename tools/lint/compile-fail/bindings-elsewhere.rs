// SPDX-License-Identifier: GPL-2.0
//! Bindings that are no file's.
//! Expected: E0624

use privmemfd_kernel::kvm::Bindings;

/// KVM knows nothing of them.
pub fn more() {
    let _ = Bindings::new();
}
