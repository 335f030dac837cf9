// SPDX-License-Identifier: GPL-2.0
//! Pages of a TD: what is asked of the TDX module for each.

use std::fs;
use std::path::Path;

use selftests::fixtures::PAGE;
use selftests::tdx::emulator::{clear_counters, Counters};
use selftests::tdx::Tdx;
use tdhost::MOVE_LEAVES;

use super::{per_page, timed, Amount, Notes};
use crate::report::{Calls, Unit};

const KICKS: &str = "/sys/kernel/debug/privmemfd/tdx_kicks";
/// Pages of the TD.
const PAGES: u64 = 512;

fn kicks() -> anyhow::Result<u64> {
    Ok(fs::read_to_string(KICKS)?.trim().parse()?)
}

fn measured(
    name: &'static str,
    unit: Unit,
    work: impl FnOnce() -> anyhow::Result<u64>,
) -> anyhow::Result<Calls> {
    clear_counters();
    let before = kicks()?;
    let (pages, took) = timed(work)?;
    let counters = Counters::read();
    let sum = |kind| {
        MOVE_LEAVES
            .iter()
            .map(|l| counters.ended(l, kind))
            .sum::<u64>()
    };
    let per = |n: u64| n as f64 / pages as f64;
    Ok(Calls {
        name,
        pages,
        seamcalls_per_page: per(sum("calls")),
        kicks_per_page: per(kicks()? - before),
        host_per_page: match unit {
            Unit::Instructions => Some(per_page(took, pages) - per(sum("cycles"))),
            Unit::Ns => None,
        },
    })
}

/// A range at once, then page by page, of a TD with a vCPU.
pub fn tdx(amount: Amount, notes: &mut Notes) -> anyhow::Result<Vec<Calls>> {
    if !Path::new(tdhost::DEVICE).exists() {
        notes.push(format!("no {}: no TDs", tdhost::DEVICE));
        return Ok(Vec::new());
    }
    let td = Tdx::running(PAGES, 1);
    let range = measured("a TD's range", amount.unit, || {
        Ok(td.fd.move_range(td.all(), None)?)
    })?;
    let single = measured("a TD's pages one by one", amount.unit, || {
        let each = td.all().step_by(PAGE as usize);
        each.map(|at| Ok(td.fd.move_range(at..at + PAGE, None)?))
            .sum()
    })?;
    td.verify();
    Ok(vec![range, single])
}
