// SPDX-License-Identifier: GPL-2.0
//! Moves by the core: a memory block goes offline.

use std::fs;
use std::time::Duration;

use anyhow::Context;

use privmemctl::memory::{Block, MemoryMap};
use privmemfd_ioctls::{Device, Mobility, Options};
use selftests::fixtures::MIB;

use super::{per_page, timed, Bench};
use crate::mapped::Mapped;
use privmemfd_bench::report::Pair;

/// Enough to fill a memory block.
const SIZE: u64 = 320 * MIB;

/// The movable block that holds most of these pages, and how many.
fn fullest(pfns: &[Option<u64>], refused: &[u64]) -> anyhow::Result<Option<(Block, u64)>> {
    let map = MemoryMap::read()?;
    Ok(map
        .count(pfns)
        .into_iter()
        .filter(|(index, _)| !refused.contains(index))
        .map(|(index, pages)| (map.block(index), pages))
        .filter(|(block, _)| block.is_movable())
        .max_by_key(|(_, pages)| *pages))
}

/// Takes an empty block offline and back; says how long the former took.
pub fn take_offline(block: &Block) -> anyhow::Result<Duration> {
    let ((), took) = timed(|| Ok(block.set_state("offline")?))?;
    block.set_state("online_movable")?;
    Ok(took)
}

/// Pages that mm has moved.
fn moved_by_mm() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/vmstat")?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("pgmigrate_success "));
    line.context("no pgmigrate_success in /proc/vmstat")?
        .parse()
        .context("pgmigrate_success")
}

/// What taking a block offline took, with nothing but the pages that are asked for in it.
pub struct Emptied {
    /// How long.
    pub took: Duration,
    /// Pages that were in it beside those, more than can be left out of account.
    pub others: Option<u64>,
}

/// Takes a block offline and back that has so many of the pages that are measured.
pub fn empty(
    bench: &mut Bench,
    name: &'static str,
    block: &Block,
    pages: u64,
) -> anyhow::Result<Emptied> {
    let before = moved_by_mm()?;
    let work = || Ok(block.set_state("offline")?);
    let ((), took) = bench.profiled(name, |()| pages, work)?;
    let by_mm = moved_by_mm()? - before;
    block.set_state("online_movable")?;
    // It has moved these, or they have left before it came.
    let others = by_mm.checked_sub(pages).unwrap_or(by_mm);
    Ok(Emptied {
        took,
        others: (others > pages / 50).then_some(others),
    })
}

/// Cost of a page that leaves the fullest block, beyond what the block costs when
/// the pages are away.
pub fn out_of_fullest(
    bench: &mut Bench,
    name: &'static str,
    pfns: impl Fn() -> anyhow::Result<Vec<Option<u64>>>,
    refused: &mut Vec<u64>,
) -> anyhow::Result<Option<f64>> {
    while let Some((block, pages)) = fullest(&pfns()?, refused)? {
        match empty(bench, name, &block, pages) {
            Err(_) => refused.push(block.index),
            // They are somewhere else now.
            Ok(Emptied {
                others: Some(others),
                ..
            }) => bench.note(format!(
                "{name}: a block with {pages} pages, and {others} of others, was left out"
            )),
            Ok(Emptied { took, .. }) => {
                let without = take_offline(&block)?;
                return Ok(Some(per_page(took.saturating_sub(without), pages)));
            }
        }
    }
    Ok(None)
}

/// Takes a block offline that is full of our pages, then one full of theirs.
pub fn offline(bench: &mut Bench) -> anyhow::Result<Vec<Pair>> {
    let mut samples = Vec::new();
    let mut refused = Vec::new();
    for _ in 0..bench.amount.rounds.min(3) {
        let ours = Device::open()?.create(SIZE, Options::new(Mobility::Movable))?;
        ours.allocate(0..SIZE)?;
        let cost = out_of_fullest(
            bench,
            "memory offline, our pages",
            || Ok(ours.pages(0..SIZE)?),
            &mut refused,
        )?;
        drop(ours);
        let theirs = Mapped::new(SIZE)?;
        let other = out_of_fullest(
            bench,
            "memory offline, a mapped memfd's",
            || theirs.pfns(),
            &mut refused,
        )?;
        let (Some(cost), Some(other)) = (cost, other) else {
            bench.note("no block of movable memory goes offline");
            break;
        };
        samples.push((cost, other));
    }
    let sides = ("memory offline, our pages", "the same, a mapped memfd's");
    Ok(match samples[..] {
        [] => Vec::new(),
        _ => vec![Pair::new("move by the core", sides, &samples)],
    })
}
