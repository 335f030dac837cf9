// SPDX-License-Identifier: GPL-2.0
//! Moves by the core: a memory block goes offline.

use std::time::Duration;

use privmemctl::memory::{Block, MemoryMap};
use privmemfd_ioctls::{Device, Mobility, Options};
use selftests::fixtures::MIB;

use super::{per_page, timed, Bench};
use crate::mapped::Mapped;
use crate::report::Pair;

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

/// Takes a block with so many pages offline and back; says how long the former took.
pub fn empty(
    bench: &mut Bench,
    name: &'static str,
    block: &Block,
    pages: u64,
) -> anyhow::Result<Duration> {
    let work = || Ok(block.set_state("offline")?);
    let ((), took) = bench.profiled(name, |()| pages, work)?;
    block.set_state("online_movable")?;
    Ok(took)
}

/// Cost of a page that leaves the fullest block, beyond what the block costs when
/// the pages are away.
fn beyond_empty(
    bench: &mut Bench,
    name: &'static str,
    pfns: impl Fn() -> anyhow::Result<Vec<Option<u64>>>,
    refused: &mut Vec<u64>,
) -> anyhow::Result<Option<f64>> {
    while let Some((block, pages)) = fullest(&pfns()?, refused)? {
        let Ok(full) = empty(bench, name, &block, pages) else {
            refused.push(block.index);
            continue;
        };
        let without = take_offline(&block)?;
        return Ok(Some(per_page(full.saturating_sub(without), pages)));
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
        let cost = beyond_empty(
            bench,
            "memory offline, our pages",
            || Ok(ours.pages(0..SIZE)?),
            &mut refused,
        )?;
        drop(ours);
        let theirs = Mapped::new(SIZE)?;
        let other = beyond_empty(
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
