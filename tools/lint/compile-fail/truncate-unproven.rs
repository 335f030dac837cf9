// SPDX-License-Identifier: GPL-2.0
//! Pages go away that guests map.
//! Expected: E0624

use privmemfd_kernel::mm::mapping::Mapping;

/// Nobody has asked KVM.
pub fn hole(mapping: &Mapping) {
    mapping.lock_exclusive().truncate(0..1);
}
