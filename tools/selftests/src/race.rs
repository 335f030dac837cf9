// SPDX-License-Identifier: GPL-2.0
//! For cases in which something is repeated, for some seconds, while something
//! else goes on.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::fixtures::{seed, PAGE};

/// A small generator: the same seed gives the same ranges.
pub struct Dice(u64);

impl Dice {
    /// With a new seed, which is printed.
    pub fn new() -> Self {
        Self(seed() | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// Some pages, up to 64, of so many from page `first`; in bytes.
    pub fn range(&mut self, first: u64, pages: u64) -> Range<u64> {
        let start = self.below(pages);
        let len = 1 + self.below((pages - start).min(64));
        (first + start) * PAGE..(first + start + len) * PAGE
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}

/// Repeats `step` for this long; returns how often.
pub fn repeat(time: Duration, mut step: impl FnMut(&mut Dice)) -> u64 {
    let mut dice = Dice::new();
    let end = Instant::now() + time;
    let mut count = 0;
    while Instant::now() < end {
        step(&mut dice);
        count += 1;
    }
    count
}
