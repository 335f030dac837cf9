// SPDX-License-Identifier: GPL-2.0

//! A number that only rises. Updated without ordering, may be read at any time.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// See the module documentation.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    pub(crate) fn add(&self, n: u64) {
        let _ = self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
