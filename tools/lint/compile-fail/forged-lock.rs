// SPDX-License-Identifier: GPL-2.0
//! A lock that nobody holds.
//! Expected: E0277

use privmemfd_kernel::mm::mapping::{Held, Mapping};

/// Holds nothing.
pub struct Forged<'a>(&'a Mapping);

impl Held for Forged<'_> {
    fn mapping(&self) -> &Mapping {
        self.0
    }
}
