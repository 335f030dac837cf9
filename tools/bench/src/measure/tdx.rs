// SPDX-License-Identifier: GPL-2.0
//! Pages of a TD: what is asked of the TDX module for each.

use std::cmp::Reverse;
use std::fs;
use std::path::Path;
use std::time::Duration;

use selftests::fixtures::PAGE;
use selftests::hostmem::{movable_blocks, offlinable};
use selftests::tdx::emulator::{clear_counters, Counters};
use selftests::tdx::Tdx;
use tdhost::MOVE_LEAVES;

use super::offline::{empty, take_offline};
use super::{per_page, Bench};
use privmemfd_bench::report::{Calls, Unit};

const KICKS: &str = "/sys/kernel/debug/privmemfd/tdx_kicks";
/// Pages of the TD.
const PAGES: u64 = 512;
/// Pages of the TD whose block goes offline.
const BLOCK_PAGES: u64 = 16384;

const OFFLINE: &str = "offline";
/// Rounds of each.
const ROUNDS: usize = 3;
/// Blocks that are tried for so many rounds.
const TRIES: usize = 6;

fn kicks() -> anyhow::Result<u64> {
    Ok(fs::read_to_string(KICKS)?.trim().parse()?)
}

/// What the TDX module was asked for.
struct Taken {
    calls: u64,
    cycles: u64,
    kicks: u64,
}

impl Taken {
    /// Since [`clear_counters`], when there had been so many kicks.
    fn since(before: u64) -> anyhow::Result<Self> {
        let counters = Counters::read();
        let sum = |kind| {
            let leaves = MOVE_LEAVES.iter();
            leaves.map(|l| counters.ended(l, kind)).sum::<u64>()
        };
        Ok(Self {
            calls: sum("calls"),
            cycles: sum("cycles"),
            kicks: kicks()? - before,
        })
    }

    fn per_page(&self, name: &'static str, unit: Unit, pages: u64, took: Duration) -> Calls {
        let per = |n: u64| n as f64 / pages as f64;
        Calls {
            name: name.into(),
            pages,
            seamcalls_per_page: per(self.calls),
            kicks_per_page: per(self.kicks),
            module_per_page: per(self.cycles),
            host_per_page: match unit {
                Unit::Instructions => Some(per_page(took, pages) - per(self.cycles)),
                Unit::Ns => None,
            },
        }
    }
}

fn measured(
    bench: &mut Bench,
    name: &'static str,
    mut work: impl FnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Calls> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        clear_counters();
        let before = kicks()?;
        let (pages, took) = bench.profiled(name, |pages| *pages, &mut work)?;
        rounds.push(Taken::since(before)?.per_page(name, bench.amount.unit, pages, took));
    }
    Ok(Calls::median(rounds))
}

/// The fullest block of a TD's pages goes offline, beyond what it costs when they are away. `None`: no
/// block does, without others' pages in it.
fn offline_once(bench: &mut Bench) -> anyhow::Result<Option<Calls>> {
    let size = BLOCK_PAGES * PAGE;
    let fd = offlinable(size);
    let td = Tdx::on(fd, BLOCK_PAGES, 1).boot();
    let mut blocks = movable_blocks(&td.fd, size);
    blocks.sort_by_key(|(_, pages)| Reverse(*pages));
    for (block, pages) in blocks {
        clear_counters();
        let before = kicks()?;
        let Ok(emptied) = empty(bench, OFFLINE, &block, pages) else {
            continue;
        };
        if emptied.others.is_some() {
            break;
        }
        let calls = Taken::since(before)?;
        let without = take_offline(&block)?;
        td.verify();
        let took = emptied.took.saturating_sub(without);
        let calls = calls.per_page(OFFLINE, bench.amount.unit, pages, took);
        return Ok(Some(calls));
    }
    Ok(None)
}

fn offline(bench: &mut Bench) -> anyhow::Result<Option<Calls>> {
    let mut rounds = Vec::new();
    for _ in 0..TRIES {
        rounds.extend(offline_once(bench)?);
        if rounds.len() == ROUNDS {
            return Ok(Some(Calls::median(rounds)));
        }
    }
    bench.note(format!(
        "{} of {ROUNDS} blocks with a TD's pages, and only those, went offline",
        rounds.len()
    ));
    Ok((!rounds.is_empty()).then(|| Calls::median(rounds)))
}

/// A range at once, then page by page, then a block, of a TD with a vCPU.
pub fn tdx(bench: &mut Bench) -> anyhow::Result<Vec<Calls>> {
    if !Path::new(tdhost::DEVICE).exists() {
        bench.note(format!("no {}: no TDs", tdhost::DEVICE));
        return Ok(Vec::new());
    }
    let td = Tdx::running(PAGES, 1);
    let range = measured(bench, "a TD's range", || {
        Ok(td.fd.move_range(td.all(), None)?)
    })?;
    let single = measured(bench, "a TD's pages one by one", || {
        let each = td.all().step_by(PAGE as usize);
        each.map(|at| Ok(td.fd.move_range(at..at + PAGE, None)?))
            .sum()
    })?;
    td.verify();
    drop(td);
    let mut all = vec![range, single];
    all.extend(offline(bench)?);
    Ok(all)
}
