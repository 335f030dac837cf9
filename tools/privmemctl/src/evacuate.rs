// SPDX-License-Identifier: GPL-2.0
//! Moves on request, and what came of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;

use privmemfd_ioctls::{MoveError, Moves, Obstacle, PageStatus, PrivMemFd, PAGE_SIZE};

use crate::draw::number;

/// Bytes of one request: its statuses fit into a page or two of memory.
const PART: u64 = 64 << 20;
/// How often pages are asked for that something else works on.
const TRIES: usize = 16;

/// What has become of the pages of a range.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pages that have moved.
    pub moved: u64,
    /// Pages that were where they should be.
    pub there: u64,
    /// Pages that have not moved, by reason.
    pub stuck: BTreeMap<Obstacle, u64>,
    /// Offsets of those whose memory has failed: they leave their file, but are not gone at once.
    pub lost: BTreeSet<u64>,
}

impl Tally {
    /// What became of the pages from offset `start` on.
    fn add(&mut self, start: u64, moved: u64, pages: &[PageStatus]) {
        let mut on = 0;
        for (offset, page) in (start..).step_by(PAGE_SIZE as usize).zip(pages) {
            match page {
                PageStatus::On(_) => on += 1,
                PageStatus::Stuck(why) => {
                    *self.stuck.entry(*why).or_default() += 1;
                    if *why == Obstacle::Poison {
                        self.lost.insert(offset);
                    }
                }
                PageStatus::Empty | PageStatus::Untold => {}
            }
        }
        self.moved += moved;
        // A page that has moved may have been freed before its status was written.
        self.there += u64::saturating_sub(on, moved);
    }

    /// Pages that have not moved.
    pub fn not_moved(&self) -> u64 {
        self.stuck.values().sum()
    }

    /// The tally in lines for people.
    pub fn text(&self, node: Option<u32>) -> String {
        let mut out = format!("{} pages moved\n", number(self.moved));
        if let (Some(node), 1..) = (node, self.there) {
            writeln!(out, "{} were on node {node}", number(self.there)).unwrap();
        }
        for (why, pages) in &self.stuck {
            writeln!(out, "{} did not move: {why}", number(*pages)).unwrap();
        }
        out
    }
}

/// Moves a range of bytes, again where something else works on the pages. `tally`
/// holds what has been done also if this fails.
pub fn evacuate(
    file: &PrivMemFd,
    range: Range<u64>,
    node: Option<u32>,
    tally: &mut Tally,
) -> Result<(), MoveError> {
    by_parts(range, tally, |part| file.move_pages(part, node))
}

fn by_parts(
    range: Range<u64>,
    tally: &mut Tally,
    mut ask: impl FnMut(Range<u64>) -> Result<Moves, MoveError>,
) -> Result<(), MoveError> {
    let mut ask_counted = |part: Range<u64>, tries_left: bool, tally: &mut Tally| {
        let start = part.start;
        let (moved, mut pages, result) = match ask(part) {
            Ok(Moves { moved, pages }) => (moved, pages, Ok(())),
            Err(mut e) => (e.moved, std::mem::take(&mut e.pages), Err(e)),
        };
        let again = if tries_left && result.is_ok() {
            contended(start, &mut pages)
        } else {
            Vec::new()
        };
        tally.add(start, moved, &pages);
        result.map(|()| again)
    };
    let mut start = range.start;
    // At least once: what is wrong with an empty or a backward range, the kernel says.
    loop {
        let end = range.end.min(start.saturating_add(PART));
        let mut left: Vec<_> = std::iter::once(start..end).collect();
        for tries in (0..TRIES).rev() {
            let mut again = Vec::new();
            for part in left {
                again.extend(ask_counted(part, tries > 0, tally)?);
            }
            left = again;
        }
        if end >= range.end {
            return Ok(());
        }
        start = end;
    }
}

/// Takes the pages out that something else works on; returns where they are.
fn contended(start: u64, pages: &mut [PageStatus]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let offsets = (start..).step_by(PAGE_SIZE as usize);
    for (offset, page) in offsets.zip(pages) {
        if *page != PageStatus::Stuck(Obstacle::Contention) {
            continue;
        }
        *page = PageStatus::Untold;
        match runs.last_mut() {
            Some(run) if run.end == offset => run.end += PAGE_SIZE,
            _ => runs.push(offset..offset + PAGE_SIZE),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How a page answers: so often with contention, then for good.
    type Script = (usize, Option<Obstacle>);

    fn script() -> impl Strategy<Value = Vec<Script>> {
        let end = prop_oneof![
            Just(None),
            Just(Some(Obstacle::Busy)),
            Just(Some(Obstacle::Poison)),
        ];
        proptest::collection::vec((0..TRIES + 4, end), 1..200)
    }

    proptest! {
        #[test]
        fn every_page_is_counted_once(script in script()) {
            let mut left = script.clone();
            let mut tally = Tally::default();
            by_parts(0..script.len() as u64 * PAGE_SIZE, &mut tally, |part| {
                let pages = (part.start / PAGE_SIZE) as usize..(part.end / PAGE_SIZE) as usize;
                let pages: Vec<_> = left[pages]
                    .iter_mut()
                    .map(|page| match page {
                        (0, None) => PageStatus::On(1),
                        (0, Some(why)) => PageStatus::Stuck(*why),
                        (n, _) => {
                            *n -= 1;
                            PageStatus::Stuck(Obstacle::Contention)
                        }
                    })
                    .collect();
                let moved = pages.iter().filter(|p| **p == PageStatus::On(1)).count() as u64;
                Ok(Moves { moved, pages })
            })
            .unwrap();
            let count = |f: &dyn Fn(&Script) -> bool| script.iter().filter(|s| f(s)).count() as u64;
            let ends = |n: usize| n < TRIES;
            prop_assert_eq!(tally.moved, count(&|(n, end)| ends(*n) && end.is_none()));
            for why in [Obstacle::Busy, Obstacle::Poison] {
                let stuck = tally.stuck.get(&why).copied().unwrap_or(0);
                prop_assert_eq!(stuck, count(&|(n, end)| ends(*n) && *end == Some(why)));
            }
            let contended = tally.stuck.get(&Obstacle::Contention).copied().unwrap_or(0);
            prop_assert_eq!(contended, count(&|(n, _)| !ends(*n)));
            prop_assert_eq!(tally.there, 0);
        }

        #[test]
        fn large_ranges_go_in_parts_without_a_gap(pages in 0u64..200_000) {
            let mut end = 0;
            let mut tally = Tally::default();
            by_parts(0..pages * PAGE_SIZE, &mut tally, |part| {
                assert_eq!(part.start, end);
                assert!(part.end - part.start <= PART);
                end = part.end;
                Ok(Moves { moved: 0, pages: Vec::new() })
            })
            .unwrap();
            prop_assert_eq!(end, pages * PAGE_SIZE);
        }
    }

    #[test]
    fn the_text_says_what_moved_and_what_did_not() {
        let mut tally = Tally::default();
        tally.add(
            0,
            1,
            &[
                PageStatus::On(1),
                PageStatus::On(1),
                PageStatus::Empty,
                PageStatus::Stuck(Obstacle::Poison),
            ],
        );
        assert_eq!(
            tally.text(Some(1)),
            "1 pages moved\n1 were on node 1\n1 did not move: their memory has failed\n"
        );
        assert_eq!(tally.not_moved(), 1);
        assert!(tally.lost.iter().eq([&(3 * PAGE_SIZE)]));
    }
}
