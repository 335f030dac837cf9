// SPDX-License-Identifier: GPL-2.0
//! Moves every private page out of pieces of memory.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context;
use privmemfd_ioctls::{Mobility, Obstacle, PAGE_SIZE};

use crate::evacuate::{evacuate, Tally};
use crate::memory::MemoryMap;
use crate::place::Place;
use crate::shares::{runs, FilePages, OpenFile};

/// Bytes after which the time is looked at.
const STEP: u64 = 8 << 20;

/// How far it has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Pages that have moved.
    pub moved: u64,
    /// Pages that were to move when it began.
    pub total: u64,
    /// Since it began.
    pub elapsed: Duration,
}

impl Progress {
    /// Pages per second, since it began.
    pub fn rate(&self) -> f64 {
        self.moved as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }
}

/// How it has ended.
#[derive(Debug, Default)]
pub struct Cleared {
    /// Pages that have moved.
    pub moved: u64,
    /// What became of the pages of the last round: those that did not move, by reason.
    pub last: Tally,
    /// Pages of movable files that are still there.
    pub left: u64,
    /// Pages that have left their file instead: their memory has failed.
    pub failed: u64,
    /// Whether the time was over.
    pub out_of_time: bool,
}

impl Cleared {
    /// What another part of the places has come to.
    pub fn add(&mut self, other: Self) {
        self.moved += other.moved;
        for (why, pages) in other.last.stuck {
            *self.last.stuck.entry(why).or_default() += pages;
        }
        self.left += other.left;
        self.failed += other.failed;
        self.out_of_time |= other.out_of_time;
    }
}

/// Nodes that may take what leaves these places, the nearest first.
pub fn other_nodes(map: &MemoryMap, places: &[Place]) -> Vec<u32> {
    let own: BTreeSet<u32> = places.iter().filter_map(|p| p.node).collect();
    let mut others: Vec<u32> = map
        .nodes()
        .into_iter()
        .filter(|n| !own.contains(n))
        .collect();
    let distances = own.first().map(|node| distances(*node)).unwrap_or_default();
    others.sort_by_key(|node| {
        (
            distances.get(*node as usize).copied().unwrap_or(u32::MAX),
            *node,
        )
    });
    others
}

/// Distance of each node, as `/sys/devices/system/node` has it.
fn distances(node: u32) -> Vec<u32> {
    let path = format!("/sys/devices/system/node/node{node}/distance");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|d| d.parse().ok())
        .collect()
}

/// Free bytes of a node.
pub fn free_on(node: u32) -> u64 {
    let path = format!("/sys/devices/system/node/node{node}/meminfo");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|l| {
            l.split_once("MemFree:")?
                .1
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .map_or(0, |kib: u64| kib << 10)
}

/// Files that may move, with their pages in the places.
pub fn movable_there(places: &[Place]) -> anyhow::Result<Vec<(OpenFile, FilePages)>> {
    let ranges: Vec<Range<u64>> = places.iter().map(|p| p.frames.clone()).collect();
    let mut there = Vec::new();
    for file in OpenFile::all()? {
        if file.stat.mobility() == Some(Mobility::Movable) {
            let pages = file
                .pages_in(&ranges)
                .context("cannot see where private memory lies")?;
            if !pages.is_empty() {
                there.push((file, pages));
            }
        }
    }
    Ok(there)
}

/// Pages of movable files in the places.
pub fn left_in(places: &[Place]) -> anyhow::Result<u64> {
    Ok(movable_there(places)?
        .iter()
        .map(|(_, pages)| pages.len() as u64)
        .sum())
}

/// Moves what is movable and private out of the places to one of the nodes, the first that
/// has memory; `None` is the node where it is. Goes on until nothing is left, no round has
/// moved anything, pages come back within their node, or the time is over. What has moved stays
/// moved, so it can be begun again.
///
/// # Errors
///
/// A request failed as a whole; what moved before that stays moved.
pub fn clear(
    places: &[Place],
    nodes: &[Option<u32>],
    deadline: Option<Instant>,
    mut progress: impl FnMut(Progress),
) -> anyhow::Result<Cleared> {
    let begun = Instant::now();
    let mut done = Cleared::default();
    let mut total = None;
    let mut before_that = None;
    let mut lost = BTreeSet::new();
    loop {
        let there = movable_there(places)?;
        let left: u64 = there.iter().map(|(_, pages)| pages.len() as u64).sum();
        let total = *total.get_or_insert(left);
        done.left = left;
        let come_back = nodes.contains(&None) && before_that.is_some_and(|pages| left >= pages);
        if left == 0 || come_back {
            return Ok(done);
        }
        before_that = Some(left);
        let before = done.moved;
        for node in nodes {
            // What found no memory on a node before may find some on the next.
            done.last = Tally::default();
            for (file, pages) in &there {
                for part in runs(pages).into_iter().flat_map(steps) {
                    if deadline.is_some_and(|end| Instant::now() >= end) {
                        done.out_of_time = true;
                        done.left = left_in(places)?;
                        return Ok(done);
                    }
                    let moved = done.last.moved;
                    let result = evacuate(&file.file, part, *node, &mut done.last);
                    done.moved += done.last.moved - moved;
                    // One that a round has lost may be there still in the next: it is the same.
                    let ino = file.owners[0].ino;
                    lost.extend(
                        std::mem::take(&mut done.last.lost)
                            .into_iter()
                            .map(|at| (ino, at)),
                    );
                    done.failed = lost.len() as u64;
                    progress(Progress {
                        moved: done.moved,
                        total,
                        elapsed: begun.elapsed(),
                    });
                    result?;
                }
            }
            if !done.last.stuck.contains_key(&Obstacle::NoMemory) {
                break;
            }
        }
        if done.moved == before {
            done.left = left_in(places)?;
            return Ok(done);
        }
    }
}

/// A range of bytes in parts that do not take long.
fn steps(run: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = run.end;
    run.step_by(STEP as usize)
        .map(move |start| start..end.min(start + STEP))
}

/// What a number of pages is in MiB.
pub fn mib(pages: f64) -> f64 {
    pages * PAGE_SIZE as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_no_gap() {
        let parts: Vec<_> = steps(0..STEP * 2 + 4096).collect();
        assert_eq!(parts, [0..STEP, STEP..2 * STEP, 2 * STEP..2 * STEP + 4096]);
        assert!(steps(4096..8192).eq(std::iter::once(4096..8192)));
    }

    #[test]
    fn a_rate_needs_no_time() {
        let progress = Progress {
            moved: 0,
            total: 1,
            elapsed: Duration::ZERO,
        };
        assert!(progress.rate().abs() < 1.0);
    }
}
