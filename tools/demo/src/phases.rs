// SPDX-License-Identifier: GPL-2.0
//! What the host does to the guest's memory.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context};
use privmemctl::draw::number;
use privmemctl::memory::{Block, Census, MemoryMap, ShortFreeLists};

use crate::hog::{HogProcess, Plan};
use crate::report::Log;
use crate::stage::Stage;

/// Longest wait for one memory block to go offline: the kernel itself tries
/// for ever.
const OFFLINE_LIMIT: Duration = Duration::from_secs(60);
/// Memory that stays free on a node that is filled, apart from the CMA area.
/// Less than the area, or the kernel would not turn to it.
const SPARE: u64 = 36 << 20;

/// Most times that a request is repeated which some pages were refused to.
const TRIES: u32 = 2000;

fn busiest_node(map: &MemoryMap, census: &Census) -> Option<u32> {
    let nodes = map.per_node(census);
    nodes.into_iter().max_by_key(|(_, pages)| *pages)?.0
}

/// Compacts memory again and again until that moves nothing more; the guest's
/// pages lie scattered among holes at first, see [`Stage::open`].
pub fn compact(stage: &Stage, tries: u32, enough: u64, log: &mut Log) -> anyhow::Result<()> {
    let _lists = ShortFreeLists::new()?;
    let mut by_compaction = 0;
    for attempt in 0..tries {
        if attempt > 0 {
            scatter(stage)?;
        }
        let from = stage.sample()?.relocated;
        fs::write("/proc/sys/vm/compact_memory", "1")?;
        by_compaction += stage.sample()?.relocated - from;
        if by_compaction >= enough {
            break;
        }
    }
    log.by_itself = Some(by_compaction);
    log.notes
        .push(format!("compaction moved {} pages", number(by_compaction)));
    Ok(())
}

/// Puts the guest's pages among holes again.
fn scatter(stage: &Stage) -> anyhow::Result<()> {
    let (map, census) = stage.census()?;
    let node = busiest_node(&map, &census).context("the guest's pages are on no known node")?;
    let size = 2 * stage.size;
    let _holes = HogProcess::start(&Plan::Holes { node, size })?;
    move_all(stage, 0..stage.size, None)?;
    Ok(())
}

/// Takes every movable block that holds guest pages offline and back, round
/// after round. Returns how many went offline.
pub fn offline(stage: &Stage, rounds: u32, target: u64, log: &mut Log) -> anyhow::Result<u64> {
    let mut offlined = 0;
    for round in 0..rounds {
        if round > 0 && stage.sample()?.relocated >= target {
            break;
        }
        let (map, census) = stage.census()?;
        let mut any = false;
        for (index, pages) in census {
            let block = map.block(index);
            if !block.is_movable() {
                log.notes.push(format!(
                    "memory{index} holds {} pages but is in zone {}: not tried",
                    number(pages),
                    block.zone
                ));
                continue;
            }
            match set_state(&block, "offline") {
                Ok(()) => {
                    offlined += 1;
                    any = true;
                    let left = stage.census()?.1.get(&index).copied().unwrap_or(0);
                    if left > 0 {
                        log.complaints.push(format!(
                            "memory{index} is offline with {left} guest pages in it"
                        ));
                    }
                    set_state(&block, "online_movable")
                        .with_context(|| format!("memory{index} does not come back"))?;
                }
                Err(e) => log
                    .notes
                    .push(format!("memory{index} refused to go offline: {e}")),
            }
        }
        if !any {
            break;
        }
    }
    log.notes.dedup();
    Ok(offlined)
}

/// Changes the state of a block by a child process that can be killed: going
/// offline ends by itself or by a signal only.
fn set_state(block: &Block, state: &str) -> io::Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .args(["set-state", &block.index.to_string(), state])
        .stdout(Stdio::null())
        .spawn()?;
    let end = Instant::now() + OFFLINE_LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            return match status.code() {
                Some(0) => Ok(()),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Err(io::Error::other("killed")),
            };
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other(format!(
                "no end after {OFFLINE_LIMIT:?}, killed"
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

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

/// Lets the guest's pages get into a CMA area, then allocates it from under them.
pub fn contiguous(stage: &Stage, log: &mut Log) -> anyhow::Result<()> {
    let Some(cma) = cma_areas()
        .into_iter()
        .max_by_key(|c| c.frames.end - c.frames.start)
    else {
        log.complaints
            .push("no CMA area (boot with cma=64M, mount debugfs)".into());
        return Ok(());
    };
    let mut inside = pages_in(stage, &cma.frames)?;
    if inside == 0 {
        lure(stage, &cma.frames, log)?;
        inside = pages_in(stage, &cma.frames)?;
    }
    if inside == 0 {
        log.notes.push("no guest page got into the CMA area".into());
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
    log.notes.push(format!(
        "{} pages allocated from CMA area {}; {} guest pages were in it, {} moved out, {} are left in it",
        number(count),
        cma.dir.file_name().unwrap_or_default().to_string_lossy(),
        number(inside),
        number(moved),
        number(left)
    ));
    fs::write(cma.dir.join("free"), count.to_string())?;
    Ok(())
}

/// Allocates as much of the area as it has, in one piece or by halves.
fn allocate(cma: &Cma) -> anyhow::Result<u64> {
    let mut want = cma.frames.end - cma.frames.start;
    let mut got = 0;
    while want > 0 {
        match fs::write(cma.dir.join("alloc"), want.to_string()) {
            Ok(()) => got += want,
            Err(_) => want /= 2,
        }
        want = want.min(cma.frames.end - cma.frames.start - got);
    }
    if got == 0 {
        bail!("the CMA area gave no page");
    }
    Ok(got)
}

/// Fills the area's node, frees the area, and brings guest pages there: the
/// only free memory left is the area.
fn lure(stage: &Stage, frames: &Range<u64>, log: &mut Log) -> anyhow::Result<()> {
    let map = MemoryMap::read()?;
    let home = map.block(map.block_of(frames.start)).node;
    let away = map.nodes().into_iter().find(|n| Some(*n) != home);
    let (Some(home), Some(away)) = (home, away) else {
        log.notes
            .push("one node only: guest pages cannot be led into the CMA area".into());
        return Ok(());
    };
    let part = 0..stage.size.min((frames.end - frames.start) * 4096 / 2);
    move_all(stage, part.clone(), Some(away))?;
    // Without it no movable allocation gets the last of a lower zone.
    let _reserve = NoReserve::new()?;
    let _full = HogProcess::start(&Plan::Fill {
        node: home,
        spare: SPARE,
        from: frames.start,
        to: frames.end,
    })?;
    if let Err(e) = move_all(stage, part, Some(home)) {
        log.notes.push(format!("{e:#}"));
    }
    Ok(())
}

/// While it lives, zones keep next to nothing back: neither for lower zones'
/// users nor for emergencies.
struct NoReserve(Vec<(&'static str, String)>);

impl NoReserve {
    fn new() -> io::Result<Self> {
        let mut this = Self(Vec::new());
        for path in [
            "/proc/sys/vm/lowmem_reserve_ratio",
            "/proc/sys/vm/min_free_kbytes",
        ] {
            let old = fs::read_to_string(path)?;
            let least = if path.ends_with("ratio") { "0" } else { "4096" };
            let words: Vec<&str> = old.split_whitespace().map(|_| least).collect();
            fs::write(path, words.join(" "))?;
            this.0.push((path, old));
        }
        Ok(this)
    }
}

impl Drop for NoReserve {
    fn drop(&mut self) {
        for (path, old) in &self.0 {
            let _ = fs::write(path, old.trim());
        }
    }
}

/// Moves a range, asking again while there is contention or single pages are refused.
fn move_all(stage: &Stage, range: Range<u64>, node: Option<u32>) -> anyhow::Result<u64> {
    let mut moved = 0;
    for _ in 0..TRIES {
        match stage.fd.move_range(range.clone(), node) {
            Ok(n) => return Ok(moved + n),
            Err(e) => {
                moved += e.moved;
                if !matches!(e.errno(), libc::EAGAIN | libc::EBUSY) {
                    return Err(e.into());
                }
            }
        }
    }
    bail!("the refusals did not end; {moved} pages moved")
}

/// Moves everything to each other node and back, on request.
pub fn on_request(stage: &Stage, log: &mut Log) -> anyhow::Result<()> {
    let (map, census) = stage.census()?;
    let home = busiest_node(&map, &census);
    let others: Vec<u32> = map
        .nodes()
        .into_iter()
        .filter(|n| Some(*n) != home)
        .collect();
    if others.is_empty() {
        log.notes
            .push("one node only (boot with numa=fake=2): moved to any new place".into());
        move_all(stage, 0..stage.size, None)?;
    }
    for node in others.into_iter().chain(home) {
        let moved = move_all(stage, 0..stage.size, Some(node))?;
        log.notes
            .push(format!("{} pages moved to node {node}", number(moved)));
    }
    Ok(())
}

/// The child of [`set_state`]; returns the errno as exit status.
pub fn write_state(index: &str, state: &str) -> i32 {
    let path = Path::new("/sys/devices/system/memory").join(format!("memory{index}/state"));
    match fs::write(path, state) {
        Ok(()) => 0,
        Err(e) => e.raw_os_error().unwrap_or(libc::EIO),
    }
}
