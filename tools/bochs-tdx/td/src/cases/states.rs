// SPDX-License-Identifier: GPL-2.0
//! Pages that move before the guest uses them.

use std::io;

use privmemfd_ioctls::PrivMemFd;

use super::counters::{self, total};
use super::{booted, check, equal, no_mismatch, Counters, Options, Outcome, CANNOT_MOVE};
use crate::guest::{self, Command, Field};
use crate::vm::{Memory, Td};

/// Pages of initial content that are added before and after the first move.
const INITIAL: u64 = 32;

/// Moves all that a file has; each page has to be elsewhere then.
fn move_all(file: &PrivMemFd) -> io::Result<u64> {
    let all = 0..file.stat()?.size;
    let before = file.pages(all.clone())?;
    let moved = file
        .move_range(all.clone(), None)
        .map_err(io::Error::other)?;
    let after = file.pages(all)?;
    let there = before.iter().flatten().count() as u64;
    let stayed = before
        .iter()
        .zip(&after)
        .filter(|(a, b)| a.is_some() && a == b)
        .count();
    equal("pages moved", moved, there)?;
    equal("pages that stayed", stayed, 0)?;
    Ok(moved)
}

/// Pages that KVM has mapped and the guest has not accepted.
pub fn pending(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let at = td.test_memory();
    let half = at.start + (at.end - at.start) / 8192 * 4096;
    let pages = (at.end - half) / 4096;
    let v = &mut vcpus[0];
    let accepted = v.command(Command::Accept, [at.start, half, 0])?;
    equal("TDG.MEM.PAGE.ACCEPT", accepted, 0)?;
    v.command(Command::Fill, [at.start, half, 64])?;
    v.pre_fault(half..at.end)?;
    let there = file.pages(half..at.end)?;
    equal("pages mapped", there.iter().flatten().count() as u64, pages)?;

    let relocated = total("tdx_relocated")?;
    // Twice: the second time they are pending in a place they were moved to.
    let moved = move_all(file)? + move_all(file)?;
    equal("relocated", total("tdx_relocated")? - relocated, moved)?;

    let place = file.pages(half..at.end)?;
    let accepted = v.command(Command::Accept, [half, at.end, 0])?;
    equal("TDG.MEM.PAGE.ACCEPT", accepted, 0)?;
    let c = td.control(0);
    equal("pages accepted before", c.get(Field::Already), 0)?;
    check(file.pages(half..at.end)? == place, || {
        "a page was mapped anew to be accepted".into()
    })?;
    equal("content", v.command(Command::Read, [half, 0, 0])?, 0)?;
    v.command(Command::Fill, [half, at.end, 64])?;
    let after = move_all(file)?;
    v.command(Command::Verify, [at.start, at.end, 64])?;
    no_mismatch(td.control(0))?;
    counters.push(("moved_pending_pages", 2 * pages));
    counters.push(("pending_relocated_pages", moved + after));
    Ok(Outcome::Passed)
}

/// Pages of a TD that is still being built.
pub fn not_finalized(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let mut td = Td::not_finalized(o.provider, o.size, o.vcpus)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let at = td.test_memory().start;
    let half = at + INITIAL * 4096;
    let end = half + INITIAL * 4096;
    let before = counters::read()?;
    td.add_initial(at, &guest::filled(at..half))?;
    let mut moved = move_all(file)?;
    td.add_initial(half, &guest::filled(half..end))?;
    moved += move_all(file)?;
    td.finalize()?;
    let after = counters::read()?;
    for (((name, a), (_, b)), want) in before.iter().zip(&after).filter_map(|pair| {
        let want = match pair.0 .0 {
            "tdx_relocated" => moved,
            // There is no vCPU to keep off the pages.
            "tdx_calls_block" | "tdx_calls_track" | "tdx_kicks" => 0,
            _ => return None,
        };
        Some((pair, want))
    }) {
        equal(name, b - a, want)?;
    }
    let mut vcpus = td.take_vcpus();
    for v in &mut vcpus {
        v.run()?;
        v.command(Command::Verify, [at, end, 8])?;
        let c = v.control();
        no_mismatch(c)?;
        equal("cells", c.get(Field::Cells), (end - at) / 8)?;
        equal("exceptions", c.get(Field::Exceptions), 0)?;
    }
    counters.push(("moved_before_finalize", moved));
    Ok(Outcome::Passed)
}
