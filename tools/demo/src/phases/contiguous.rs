// SPDX-License-Identifier: GPL-2.0
//! The guest's pages get into a CMA area, then it is allocated from under them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context};
use demo::full_node::FullNode;
use privmemctl::draw::number;
use privmemctl::memory::MemoryMap;

use super::{move_all, PROGRAM};
use crate::report::Log;
use crate::stage::Stage;

/// Guest memory that is led to it: more than there is room elsewhere.
const LURED: u64 = 32 << 20;
/// Attempts to allocate the whole area.
const ATTEMPTS: u32 = 5;

/// A contiguous memory area that drivers can allocate from.
#[derive(Debug)]
struct Cma {
    dir: PathBuf,
    frames: Range<u64>,
}

fn cma_areas() -> Vec<Cma> {
    let number =
        |path: PathBuf| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let areas = fs::read_dir("/sys/kernel/debug/cma").into_iter().flatten();
    areas
        .flatten()
        .filter_map(|entry| {
            let dir = entry.path();
            // Kernels differ in whether an area is split into ranges.
            let inside = |file: &str| {
                let plain = dir.join(file);
                if plain.exists() {
                    plain
                } else {
                    dir.join("ranges/0").join(file)
                }
            };
            let base = number(inside("base_pfn"))?;
            let count = number(dir.join("count"))?;
            Some(Cma {
                frames: base..base + count,
                dir,
            })
        })
        .collect()
}

fn pages_in(stage: &Stage, frames: &Range<u64>) -> anyhow::Result<u64> {
    let pfns = stage.fd.pages(0..stage.size)?;
    Ok(pfns.iter().flatten().filter(|p| frames.contains(p)).count() as u64)
}

/// Leads the guest's pages into a CMA area, then allocates it from under them.
pub fn contiguous(stage: &Stage, log: &mut Log) -> anyhow::Result<()> {
    let cma = cma_areas()
        .into_iter()
        .max_by_key(|c| c.frames.end - c.frames.start)
        .context("no CMA area (boot with cma=64M, mount debugfs)")?;
    let mut inside = pages_in(stage, &cma.frames)?;
    if inside == 0 {
        lure(stage, &cma.frames)?;
        inside = pages_in(stage, &cma.frames)?;
    }
    let from = stage.sample()?.relocated;
    let count = allocate(&cma)?;
    let left = pages_in(stage, &cma.frames)?;
    let moved = stage.sample()?.relocated - from;
    log.by_itself = Some(moved);
    // With less than the whole area, guest pages may be in what was not allocated.
    if left + count > cma.frames.end - cma.frames.start {
        log.complaints.push(format!(
            "{} guest pages are left in memory that was allocated",
            number(left)
        ));
    }
    log.note(format!(
        "{} of {} pages allocated from CMA area {}; {} guest pages were in it, {} moved out, {} are left in it",
        number(count),
        number(cma.frames.end - cma.frames.start),
        cma.dir.file_name().unwrap_or_default().to_string_lossy(),
        number(inside),
        number(moved),
        number(left)
    ));
    fs::write(cma.dir.join("free"), count.to_string())?;
    Ok(())
}

/// Allocates as much of the area as it has: in one piece, as a driver would, asking again
/// while a page has only just been freed; else by halves.
fn allocate(cma: &Cma) -> anyhow::Result<u64> {
    let all = cma.frames.end - cma.frames.start;
    let take = |pages: u64| fs::write(cma.dir.join("alloc"), pages.to_string());
    for _ in 0..ATTEMPTS {
        if take(all).is_ok() {
            return Ok(all);
        }
    }
    let (mut got, mut want) = (0, all / 2);
    while want > 0 {
        match take(want) {
            Ok(()) => got += want,
            Err(_) => want /= 2,
        }
        want = want.min(all - got);
    }
    if got == 0 {
        bail!("the CMA area gave no page");
    }
    Ok(got)
}

/// Brings guest pages into the area: its node is filled but for some MiB and the area,
/// so that of [`LURED`] bytes most find no other place.
fn lure(stage: &Stage, frames: &Range<u64>) -> anyhow::Result<()> {
    let map = MemoryMap::read()?;
    let home = map.block(map.block_of(frames.start)).node;
    let away = map.nodes().into_iter().find(|n| Some(*n) != home);
    let (Some(home), Some(away)) = (home, away) else {
        bail!("one node only (boot with numa=fake=2): guest pages cannot be led into the CMA area");
    };
    let part = 0..stage.size.min(LURED);
    move_all(stage, part.clone(), away)?;
    let _full = FullNode::new(Path::new(PROGRAM), home, frames)?;
    move_all(stage, part, home).context("guest pages cannot be led into the CMA area")?;
    Ok(())
}
