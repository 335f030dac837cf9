// SPDX-License-Identifier: GPL-2.0

//! Frames that have failed, and that mm has not counted.
//!
//! When a memory block comes online, all its frames are as good as new. mm refuses that if it has
//! counted a failed frame there. It does not count one that somebody else has marked, as a file does
//! which gives up a page before memory_failure() has come to it
//! ([`Locked::set_failed`](super::folio::Locked::set_failed)), and exports no function for that. These
//! are remembered here, for as long as the module is loaded.

use core::ops::Range;
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    }, //
};

const MOST: usize = 64;
/// No frame has this number.
const NONE: usize = usize::MAX;

/// All of them.
pub(crate) static UNCOUNTED: Uncounted = Uncounted::new();

/// Frame numbers.
pub(crate) struct Uncounted {
    frames: [Atomic<usize>; MOST],
    /// There are others.
    more: Atomic<bool>,
}

impl Uncounted {
    const fn new() -> Self {
        Self {
            frames: [const { Atomic::new(NONE) }; MOST],
            more: Atomic::new(false),
        }
    }

    /// Remembers a frame; if there is no room, any frame may be one from now on. Any context.
    pub(crate) fn add(&self, pfn: usize) {
        let has_it = |frame: &Atomic<usize>| match frame.cmpxchg(NONE, pfn, Full) {
            Ok(_) => true,
            Err(other) => other == pfn,
        };
        if !self.frames.iter().any(has_it) {
            pr_err!("more than {MOST} frames have failed: no memory block comes online again\n");
            self.more.store(true, Relaxed);
        }
    }

    /// Forgets those of `pfns` that are not `failed` any more (`unpoison-pfn`).
    pub(crate) fn check(&self, pfns: &Range<usize>, failed: impl Fn(usize) -> bool) {
        for frame in &self.frames {
            let pfn = frame.load(Relaxed);
            if pfns.contains(&pfn) && !failed(pfn) {
                let _ = frame.cmpxchg(pfn, NONE, Full);
            }
        }
    }

    /// Whether one of `pfns` may be one.
    pub(crate) fn any_in(&self, pfns: &Range<usize>) -> bool {
        let inside = |frame: &Atomic<usize>| pfns.contains(&frame.load(Relaxed));
        self.more.load(Relaxed) || self.frames.iter().any(inside)
    }
}

#[kunit_tests(privmemfd_uncounted)]
mod tests {
    use super::*;

    const BLOCK: Range<usize> = 0x8000..0x10000;
    const NEXT: Range<usize> = 0x10000..0x18000;

    #[test]
    fn failed_frames_are_remembered_until_they_are_good_again() {
        let uncounted = Uncounted::new();
        uncounted.add(0x8000);
        uncounted.add(0xffff);
        assert!(uncounted.any_in(&BLOCK));
        assert!(!uncounted.any_in(&NEXT));
        uncounted.check(&BLOCK, |pfn| pfn == 0xffff);
        assert!(uncounted.any_in(&BLOCK));
        uncounted.check(&NEXT, |_| false);
        assert!(uncounted.any_in(&BLOCK));
        uncounted.check(&BLOCK, |_| false);
        assert!(!uncounted.any_in(&BLOCK));
    }

    #[test]
    fn where_there_is_no_room_every_frame_may_have_failed() {
        let uncounted = Uncounted::new();
        for pfn in 0..MOST {
            uncounted.add(pfn);
            uncounted.add(0);
        }
        assert!(!uncounted.any_in(&BLOCK));
        uncounted.add(MOST);
        assert!(uncounted.any_in(&BLOCK));
    }
}
