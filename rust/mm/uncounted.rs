// SPDX-License-Identifier: GPL-2.0

//! Where memory has failed that mm has not counted.
//!
//! When a memory block comes online, all its frames are as good as new. mm refuses that if it has
//! counted a failed frame there. It does not count one that somebody else has marked, as a file does
//! which gives up a page before memory_failure() has come to it
//! ([`Locked::set_failed`](super::folio::Locked::set_failed)), and exports no function for that. These
//! are remembered here, for as long as the module is loaded: by the section that they lie in, of which
//! memory blocks are made.

use crate::ffi;
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
/// No section has this number.
const NONE: usize = usize::MAX;

/// All of them.
pub(crate) static UNCOUNTED: Uncounted = Uncounted::new();

/// Numbers of sections.
pub(crate) struct Uncounted {
    sections: [Atomic<usize>; MOST],
    /// There are others.
    more: Atomic<bool>,
}

fn section(pfn: usize) -> usize {
    pfn / ffi::PRIVMEMFD_PAGES_PER_SECTION
}

impl Uncounted {
    const fn new() -> Self {
        Self {
            sections: [const { Atomic::new(NONE) }; MOST],
            more: Atomic::new(false),
        }
    }

    /// Remembers the section of a frame; if there is no room, any may be one from now on. Any context.
    pub(crate) fn add(&self, pfn: usize) {
        let section = section(pfn);
        let has_it = |place: &Atomic<usize>| match place.cmpxchg(NONE, section, Full) {
            Ok(_) => true,
            Err(other) => other == section,
        };
        if !self.sections.iter().any(has_it) {
            pr_err!("memory has failed in more than {MOST} sections: none comes online again\n");
            self.more.store(true, Relaxed);
        }
    }

    /// Whether one of the frames `pfns`, which are whole sections, may be one.
    pub(crate) fn any_in(&self, pfns: &Range<usize>) -> bool {
        let range = section(pfns.start)..section(pfns.end);
        let inside = |place: &Atomic<usize>| range.contains(&place.load(Relaxed));
        self.more.load(Relaxed) || self.sections.iter().any(inside)
    }

    /// Forgets the section of a frame.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn test_forget(&self, pfn: usize) {
        for place in &self.sections {
            let _ = place.cmpxchg(section(pfn), NONE, Full);
        }
    }
}

#[kunit_tests(privmemfd_uncounted)]
mod tests {
    use super::*;

    const SECTION: usize = ffi::PRIVMEMFD_PAGES_PER_SECTION;
    const BLOCK: Range<usize> = 2 * SECTION..4 * SECTION;

    #[test]
    fn sections_with_failed_frames_are_remembered() {
        let uncounted = Uncounted::new();
        assert!(!uncounted.any_in(&BLOCK));
        uncounted.add(BLOCK.start - 1);
        uncounted.add(BLOCK.end);
        assert!(!uncounted.any_in(&BLOCK));
        uncounted.add(BLOCK.end - 1);
        assert!(uncounted.any_in(&BLOCK));
        uncounted.test_forget(BLOCK.end - SECTION);
        assert!(!uncounted.any_in(&BLOCK));
    }

    #[test]
    fn any_number_of_frames_of_a_section_is_one() {
        let uncounted = Uncounted::new();
        (0..2 * MOST).for_each(|pfn| uncounted.add(pfn));
        assert!(!uncounted.any_in(&BLOCK));
        (0..MOST).for_each(|nr| uncounted.add((8 + nr) * SECTION));
        assert!(uncounted.any_in(&BLOCK));
    }
}
