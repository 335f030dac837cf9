// SPDX-License-Identifier: GPL-2.0
//! An origin of one's own.
//! Expected: E0277

use privmemfd_kernel::{kvm::Origin, mm::mapping::Lru};

/// On whatever list.
pub struct Mine;

impl Origin for Mine {
    const LRU: Lru = Lru::Isolated;
}
