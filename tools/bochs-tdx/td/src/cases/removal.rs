// SPDX-License-Identifier: GPL-2.0
//! KVM fails to remove pages from a TD, which is lost by that.

use std::io;
use std::ops::Range;

use privmemfd_ioctls::PrivMemFd;

use super::bind;
use super::faults::{kept, reuse, while_failing};
use super::{booted, equal, Counters, Options, Outcome, CANNOT_MOVE};
use crate::guest::Command;
use crate::vm::{movable, Memory, Td};

/// KVM cannot take pages from a TD, which then is not to run any more: `want` of them. `f` makes
/// KVM try.
pub(super) fn not_removed(
    o: &Options,
    want: u64,
    f: impl FnOnce(&Td, &PrivMemFd) -> io::Result<()>,
) -> io::Result<Outcome> {
    not_removed_behind(o, 0, want, f)
}

/// The same, with so many bytes of the slot before these pages that the TD does not use.
fn not_removed_behind(
    o: &Options,
    unused: u64,
    want: u64,
    f: impl FnOnce(&Td, &PrivMemFd) -> io::Result<()>,
) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    if matches!(td.memory, Memory::Kvm(_)) {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    }
    let slot = bind::HERE.start..bind::HERE.end + unused;
    let used = slot.start + unused..slot.end;
    let memory = Memory::Privmemfd(movable(unused + bind::SIZE)?);
    td.bind_file(5, slot, &memory, 0)?;
    bind::use_memory(&mut vcpus[0], &used)?;
    let Memory::Privmemfd(file) = memory else {
        unreachable!()
    };
    let before = file.pages(unused..unused + bind::SIZE)?;
    f(&td, &file)?;
    kept(&before, want)?;
    let run = vcpus[0].command(Command::Verify, [used.start, used.end, 8]);
    let e = run.err().and_then(|e| e.raw_os_error());
    equal("errno of a vCPU of a lost TD", e.unwrap_or(0), libc::EIO)?;
    drop(vcpus);
    drop(td);
    kept(&before, 0)?;
    reuse(o, file)?;
    Ok(Outcome::Passed)
}

pub(super) fn punch(_: &Td, file: &PrivMemFd) -> io::Result<()> {
    file.punch_hole(0..bind::SIZE).map_err(io::Error::other)
}

fn punch_failing(
    td: &Td,
    file: &PrivMemFd,
    rules: &str,
    counters: &mut Counters,
) -> io::Result<()> {
    while_failing(rules, counters, || punch(td, file)).map(|_| ())
}

pub(super) fn pages(at: &Range<u64>) -> u64 {
    (at.end - at.start) / 4096
}

/// A hole in memory of a TD that the module has stopped for good.
pub fn holes_of_a_lost_td(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let rules = "TDH.MEM.RANGE.BLOCK nth=3 repeat=0 status=0xe000060400000000";
    not_removed(o, pages(&bind::HERE) - 2, |td, file| {
        punch_failing(td, file, rules, counters)
    })
}

/// The slot of such memory goes. Its file outlives it, without what the module has. KVM lets go of
/// that in parts of 4 MiB: these pages are not in the first.
pub fn slot_of_a_lost_td(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let rules = "TDH.MEM.TRACK nth=2 repeat=0 status=0xe000060400000000\n\
                 TDH.MEM.PAGE.REMOVE nth=2 repeat=0 status=0xe000060400000000";
    let unused = 4 << 20;
    not_removed_behind(o, unused, pages(&bind::HERE) - 1, |td, file| {
        while_failing(rules, counters, || td.unbind(5))?;
        let there = file.pages(0..unused + bind::SIZE)?;
        equal("pages of the file", there.iter().flatten().count(), 1)
    })
}

/// A page that the module would not give back although nothing is wrong with the TD.
pub fn page_not_removed(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let rules = "TDH.MEM.PAGE.REMOVE nth=3 status=0xc000010000000001";
    not_removed(o, 1, |td, file| punch_failing(td, file, rules, counters))
}

/// The same, of a page whose caches cannot be written back.
pub fn page_removed_unclean(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let rules = "TDH.PHYMEM.PAGE.WBINVD nth=3 status=0xc000010000000001";
    not_removed(o, 1, |td, file| punch_failing(td, file, rules, counters))
}
