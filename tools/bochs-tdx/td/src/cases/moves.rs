// SPDX-License-Identifier: GPL-2.0
//! Memory moves while the vCPUs verify and rewrite it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::process::{Command as Process, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use privmemfd_ioctls::PrivMemFd;

use super::{
    accept, booted, check, equal, no_mismatch, part, Counters, Options, Outcome, CANNOT_MOVE,
};
use crate::guest::{Command, Field};
use crate::vm::{self, Memory, Td, Vcpu};

const BALLAST: u64 = 64 << 20;
const BALLASTS: u64 = 6;
const ENOUGH: u64 = 100;
/// Memory blocks to take offline, if so many can.
const OFFLINE_BLOCKS: u64 = 2;
const BLOCKS: &str = "/sys/devices/system/memory";
/// Seconds after which a memory block does not go offline any more.
const OFFLINE_LIMIT: &str = "60";

/// What vCPUs that loop have done, all together.
#[derive(Debug, Default)]
pub struct Work {
    /// Cells verified.
    pub cells: u64,
    rounds: u64,
}

/// Lets all vCPUs verify and rewrite their memory while `f` goes on.
pub fn while_looping<T>(
    o: &Options,
    td: &Td,
    mut vcpus: Vec<Vcpu>,
    f: impl FnOnce() -> io::Result<T>,
) -> io::Result<(T, Work)> {
    for v in &mut vcpus {
        accept(td, o, v)?;
        let at = part(td, o, v.id());
        v.command(Command::Fill, [at.start, at.end, 64])?;
    }
    let threads: Vec<_> = vcpus
        .into_iter()
        .map(|mut v| {
            let at = part(td, o, v.id());
            thread::spawn(move || {
                let r = v.command(Command::Loop, [at.start, at.end, 64]);
                r.map(|_| v)
            })
        })
        .collect();
    let result = f();
    for id in 0..o.vcpus {
        td.control(id).set(Field::Stop, 1);
    }
    let mut work = Work::default();
    for t in threads {
        let v = t
            .join()
            .map_err(|_| io::Error::other("a vCPU's thread panicked"))??;
        let c = v.control();
        no_mismatch(c)?;
        work.cells += c.get(Field::Cells);
        work.rounds += c.get(Field::Rounds);
    }
    Ok((result?, work))
}

/// Waits until every vCPU has been through all of its memory `n` more times.
fn rounds(td: &Td, o: &Options, n: u64) -> io::Result<()> {
    let count = |id| td.control(id).get(Field::Rounds);
    let before: Vec<_> = (0..o.vcpus).map(count).collect();
    let deadline = Instant::now() + Duration::from_secs(120);
    while (0..o.vcpus).any(|id| count(id) < before[id as usize] + n) {
        check(Instant::now() < deadline, || {
            "a vCPU makes no progress".into()
        })?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// vCPUs verify memory that stays where it is.
pub fn run(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let (td, vcpus) = booted(o)?;
    let started = Instant::now();
    let ((), work) = while_looping(o, &td, vcpus, || rounds(&td, o, 3))?;
    counters.push(("run_cells", work.cells));
    counters.push(("run_ms", started.elapsed().as_millis() as u64));
    Ok(Outcome::Passed)
}

/// PRIVMEMFD_MOVE of all memory.
pub fn by_request(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let (td, vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let started = Instant::now();
    // The image moves too: code, page tables and stacks in use.
    let moved = |range: Range<u64>| {
        file.move_range(range, None)
            .map_err(|e| io::Error::other(format!("{} pages moved, then: {e}", e.moved)))
    };
    let (total, work) = while_looping(o, &td, vcpus, || {
        let mut total = 0;
        for _ in 0..o.moves {
            rounds(&td, o, 1)?;
            let before = file.pages(0..o.size).map_err(io::Error::other)?;
            let n = moved(0..td.image_size())? + moved(td.test_memory())?;
            let after = file.pages(0..o.size).map_err(io::Error::other)?;
            let pairs = before.iter().zip(&after);
            let there = before.iter().filter(|p| p.is_some()).count() as u64;
            let elsewhere = pairs.filter(|(a, b)| a.is_some() && a != b).count() as u64;
            equal("pages moved", n, there)?;
            equal("pages elsewhere", elsewhere, there)?;
            total += n;
        }
        rounds(&td, o, 2)?;
        Ok(total)
    })?;
    counters.push(("moved_pages", total));
    counters.push(("move_cells", work.cells));
    counters.push(("move_ms", started.elapsed().as_millis() as u64));
    Ok(Outcome::Passed)
}

/// mm's own compaction.
pub fn compact(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let (td, vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let relocated = || file.stat().map(|s| s.relocated).map_err(io::Error::other);
    let (compacted, work) = while_looping(o, &td, vcpus, || {
        let mut compacted = 0;
        // Compaction brings pages from one end of a zone to the other, where
        // they may be already: ballast of many sizes puts them elsewhere.
        for n in 1..=BALLASTS {
            let size = n * BALLAST;
            let ballast = vm::movable(size)?;
            ballast.allocate(0..size).map_err(io::Error::other)?;
            file.move_range(td.test_memory(), None)
                .map_err(io::Error::other)?;
            drop(ballast);
            let before = relocated()?;
            std::fs::write("/proc/sys/vm/compact_memory", "1")?;
            compacted += relocated()? - before;
            rounds(&td, o, 1)?;
            if compacted >= ENOUGH {
                break;
            }
        }
        Ok(compacted)
    })?;
    counters.push(("compacted_pages", compacted));
    counters.push(("compact_relocated_pages", relocated()?));
    counters.push(("compact_cells", work.cells));
    check(compacted > 0, || {
        "compaction moved no page of the TD".into()
    })?;
    Ok(Outcome::Passed)
}

/// Pages of a file by the memory block they are in.
fn census(file: &PrivMemFd, range: Range<u64>) -> io::Result<BTreeMap<u64, u64>> {
    let text = fs::read_to_string(format!("{BLOCKS}/block_size_bytes"))?;
    let size = u64::from_str_radix(text.trim(), 16).map_err(io::Error::other)?;
    let mut blocks = BTreeMap::new();
    for pfn in file.pages(range)?.into_iter().flatten() {
        *blocks.entry(pfn * 4096 / size).or_default() += 1;
    }
    Ok(blocks)
}

fn is_movable(block: u64) -> io::Result<bool> {
    let zones = fs::read_to_string(format!("{BLOCKS}/memory{block}/valid_zones"))?;
    Ok(zones.split_whitespace().next() == Some("Movable"))
}

/// Writes the state of a memory block, by a process that can be killed: the
/// kernel tries to empty a block until it gets a signal.
fn set_state(block: u64, state: &str) -> io::Result<bool> {
    let write = format!("echo {state} >{BLOCKS}/memory{block}/state");
    Process::new("timeout")
        .args(["-s", "KILL", OFFLINE_LIMIT, "sh", "-c", &write])
        .stderr(Stdio::null())
        .status()
        .map(|s| s.success())
}

/// Memory blocks with pages of the TD go offline and come back.
pub fn offline(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let (td, vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let all = 0..o.size;
    let ((blocks, pages), work) = while_looping(o, &td, vcpus, || {
        let (mut blocks, mut pages) = (0, 0);
        for n in 1..=BALLASTS {
            // Some blocks hold pages from before there was a movable zone and
            // never go offline: the TD goes elsewhere.
            let ballast = vm::movable(n * BALLAST)?;
            ballast.allocate(0..n * BALLAST)?;
            file.move_range(td.test_memory(), None)
                .map_err(io::Error::other)?;
            drop(ballast);
            for (block, held) in census(file, all.clone())? {
                if !is_movable(block)? || !set_state(block, "offline")? {
                    println!("# memory{block} with {held} pages does not go offline");
                    continue;
                }
                let left = census(file, all.clone())?.get(&block).copied();
                let back = set_state(block, "online_movable")?;
                equal("pages in an offline block", left.unwrap_or(0), 0)?;
                check(back, || format!("memory{block} does not come back"))?;
                blocks += 1;
                pages += held;
                rounds(&td, o, 1)?;
            }
            if blocks >= OFFLINE_BLOCKS && pages >= ENOUGH {
                break;
            }
        }
        Ok((blocks, pages))
    })?;
    counters.push(("offlined_blocks", blocks));
    counters.push(("offlined_pages", pages));
    counters.push(("offline_cells", work.cells));
    check(pages > 0, || {
        "no memory block with pages of the TD went offline".into()
    })?;
    Ok(Outcome::Passed)
}
