// SPDX-License-Identifier: GPL-2.0
//! Moves by the core: a memory block goes offline.

use std::fs;
use std::time::Duration;

use anyhow::Context;

use privmemctl::memory::{Block, MemoryMap};
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd, Zone};
use selftests::fixtures::{MIB, PAGE};
use selftests::hostmem::can_go_offline;

use super::{per_page, timed, Bench};
use crate::mapped::Mapped;
use privmemfd_bench::report::Pair;

/// What is put into the block: almost all that there is room for.
const SIZE: u64 = 112 * MIB;
/// A file that takes what is left of the other blocks.
const FILLER: u64 = 64 * MIB;

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

/// A block that nobody has anything in, of the only free movable memory that pages of this thread
/// come from: what is allocated next lies there, whichever revision is measured.
struct FreeBlock {
    block: Block,
    /// What has filled the others.
    _fillers: Vec<PrivMemFd>,
}

impl FreeBlock {
    fn new() -> anyhow::Result<Option<Self>> {
        let near = near_node()?;
        let candidates = MemoryMap::read()?.blocks.into_values();
        let mut candidates = candidates.filter(|block| block.node == Some(near));
        let Some(block) =
            candidates.find(|block| can_go_offline(block) && block.set_state("offline").is_ok())
        else {
            return Ok(None);
        };
        let mut fillers = Vec::new();
        loop {
            let filler = empty_file(FILLER, near)?;
            filler.allocate(0..FILLER)?;
            let movable = filler.stat()?.in_zone(Zone::Movable) * PAGE;
            fillers.push(filler);
            if movable < FILLER {
                break;
            }
        }
        block.set_state("online_movable")?;
        Ok(Some(Self {
            block,
            _fillers: fillers,
        }))
    }

    /// Cost of a page that leaves the block, beyond what the block costs when it is empty.
    fn cost(
        &self,
        bench: &mut Bench,
        name: &'static str,
        pfns: &[Option<u64>],
    ) -> anyhow::Result<Option<f64>> {
        let census = MemoryMap::read()?.count(pfns);
        let pages = census
            .into_iter()
            .find_map(|(index, pages)| (index == self.block.index).then_some(pages))
            .unwrap_or(0);
        if pages < SIZE / PAGE / 2 {
            bench.note(format!(
                "{name}: {pages} pages only came to lie in the block"
            ));
            return Ok(None);
        }
        let emptied = empty(bench, name, &self.block, pages)?;
        if let Some(others) = emptied.others {
            bench.note(format!(
                "{name}: a block with {pages} pages, and {others} of others, was left out"
            ));
            return Ok(None);
        }
        let without = take_offline(&self.block)?;
        Ok(Some(per_page(emptied.took.saturating_sub(without), pages)))
    }
}

fn empty_file(size: u64, node: u32) -> anyhow::Result<PrivMemFd> {
    Ok(Device::open()?.create(size, Options::new(Mobility::Movable).node(node))?)
}

/// The node that memory of this thread comes from.
fn near_node() -> anyhow::Result<u32> {
    let page = Mapped::new(PAGE)?;
    let pfns = page.pfns()?;
    let map = MemoryMap::read()?;
    let pfn = pfns[0].context("no page frame")?;
    map.block(map.block_of(pfn))
        .node
        .context("a block of no node")
}

/// Takes a block offline that is full of our pages, then the same, full of theirs.
pub fn offline(bench: &mut Bench) -> anyhow::Result<Vec<Pair>> {
    let Some(block) = FreeBlock::new()? else {
        bench.note("no block of movable memory goes offline");
        return Ok(Vec::new());
    };
    let near = near_node()?;
    let mut samples = Vec::new();
    for _ in 0..bench.amount.rounds.min(3) {
        let ours = empty_file(SIZE, near)?;
        ours.allocate(0..SIZE)?;
        let cost = block.cost(bench, "memory offline, our pages", &ours.pages(0..SIZE)?)?;
        drop(ours);
        let theirs = Mapped::new(SIZE)?;
        let name = "memory offline, a mapped memfd's";
        let other = block.cost(bench, name, &theirs.pfns()?)?;
        samples.extend(cost.zip(other));
    }
    let sides = ("memory offline, our pages", "the same, a mapped memfd's");
    Ok(match samples[..] {
        [] => Vec::new(),
        _ => vec![Pair::new("move by the core", sides, &samples)],
    })
}
