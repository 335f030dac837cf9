// SPDX-License-Identifier: GPL-2.0
//! Where in all of the host's memory is what a guest has written? In the pages of its
//! file and nowhere else, whatever has become of others; of a TD's content nowhere.
//!
//! `memscan.ko` looks. The guest derives its words from secrets and from where they
//! lie, so that this program never has one of them in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::ExitCode;

use privmemctl::memory::ShortFreeLists;
use privmemfd_ioctls::PrivMemFd;
use selftests::cases;
use selftests::fixtures::{
    child, for_compaction, movable, role, seed, signal, wait_for, Guest, MIB, PAGE, PATIENCE,
};
use selftests::hostmem::{
    can_go_offline, compact, movable_blocks, offlinable, punch_every_other_page, unpoison,
    until_moved, CompactUnevictable,
};
use selftests::ktap::{self, note, skip};
use selftests::starve::FailingCopies;
use selftests::tdx::emulator::Faults;
use selftests::tdx::Tdx;
use tdhost::MOVE_LEAVES;
use vmm::guest::Field;

const MEMSCAN: &str = "/sys/kernel/debug/memscan";
/// Pages that a guest writes.
const PAGES: u64 = 64;
const SIZE: u64 = PAGES * PAGE;
/// Words in a page.
const WORDS: u64 = PAGE / 8;

/// What is found: words by page frame number.
type Found = BTreeMap<u64, u64>;

fn look_for(pattern: &str) {
    if !std::path::Path::new(MEMSCAN).exists() {
        skip("nobody to search memory (insmod memscan.ko)");
    }
    fs::write(format!("{MEMSCAN}/pattern"), pattern).unwrap();
}

fn found() -> Found {
    let text = fs::read_to_string(format!("{MEMSCAN}/found")).unwrap();
    let mut lines = text.lines().rev();
    let end = lines.next().unwrap();
    let scanned: u64 = end.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap();
    assert!(scanned > 100_000, "too little memory was searched: {end}");
    let line = |line: &str| {
        let (pfn, words) = line.split_once(' ')?;
        let pfn = u64::from_str_radix(pfn.strip_prefix("0x")?, 16).ok()?;
        Some((pfn, words.parse().ok()?))
    };
    lines.map(|l| line(l).unwrap()).collect()
}

/// A guest that has filled its memory, which is what is looked for.
fn secretive(fd: &PrivMemFd) -> Guest {
    let mut guest = Guest::new(fd, 1);
    let round = seed() as u32 & 0x7fff_ffff | 1 << 30;
    guest.vcpus[0]
        .control()
        .set(Field::Started, u64::from(round) - 1);
    look_for(&format!("vm {:x} {round:x} {SIZE:x}", guest.job.seed));
    guest.fill();
    guest
}

fn frames(fd: &PrivMemFd) -> Vec<u64> {
    let size = fd.stat().unwrap().size;
    fd.pages(0..size).unwrap().into_iter().flatten().collect()
}

/// Panics unless content is in these pages, all of it, and nowhere else.
#[track_caller]
fn only_in(pfns: &[u64], when: &str) {
    let want: Found = pfns.iter().map(|pfn| (*pfn, WORDS)).collect();
    let found = found();
    let stray: Vec<_> = found
        .iter()
        .filter(|(pfn, _)| !want.contains_key(pfn))
        .collect();
    assert!(
        stray.is_empty(),
        "{when}: content in other pages (page, words): {stray:x?}"
    );
    assert_eq!(
        found, want,
        "{when}: content that is not in the file's pages"
    );
}

fn content_is_in_the_file() {
    let fd = movable(SIZE);
    let guest = secretive(&fd);
    assert_eq!(frames(&fd).len() as u64, PAGES);
    only_in(&frames(&fd), "written");
    drop(guest);
    only_in(&frames(&fd), "when the VM is gone");
    drop(fd);
    only_in(&[], "closed");
}

fn moved() {
    let fd = movable(SIZE);
    let mut guest = secretive(&fd);
    for _ in 0..3 {
        assert_eq!(fd.move_range(0..SIZE, None).unwrap(), PAGES);
    }
    only_in(&frames(&fd), "moved on request");
    guest.verify();
    let old = frames(&fd);
    for pfn in &old[..8] {
        let path = "/sys/devices/system/memory/soft_offline_page";
        fs::write(path, format!("{:#x}", pfn * PAGE)).unwrap();
    }
    assert!(frames(&fd)[..8]
        .iter()
        .zip(&old)
        .all(|(new, old)| new != old));
    only_in(&frames(&fd), "moved by mm");
}

fn compacted() {
    let _allowed = CompactUnevictable::allowed(true);
    let _lists = ShortFreeLists::new().unwrap();
    let mut first = false;
    until_moved(|| {
        // Compaction fills the holes of one piece of 2 MiB with pages of another, and the file is
        // small: what it would have to move takes long to search for. Another file has the other
        // pieces, now behind it, now before it.
        let other = || {
            let fd = for_compaction(16 * MIB);
            fd.allocate(0..16 * MIB).unwrap();
            fd
        };
        first = !first;
        let before = (!first).then(other);
        let fd = for_compaction(SIZE);
        let guest = secretive(&fd);
        let behind = first.then(other);
        let others = before.iter().chain(&behind);
        others.chain([&fd]).for_each(punch_every_other_page);
        compact();
        let moved = fd.stat().unwrap().relocated;
        if moved > 0 {
            only_in(&frames(&fd), "compacted");
            drop((guest, fd));
            only_in(&[], "closed");
        }
        moved
    });
}

fn offline() {
    let fd = offlinable(SIZE);
    let guest = secretive(&fd);
    let blocks = movable_blocks(&fd, SIZE);
    let gone = blocks.iter().find(|(block, _)| {
        let gone = can_go_offline(block).then(|| block.set_state("offline"));
        note(format!("memory{}: {gone:?}", block.index));
        gone.is_some_and(|gone| gone.is_ok())
    });
    let (block, pages) = gone.expect("no block goes offline, see above");
    let moved = fd.stat().unwrap().relocated;
    assert!(moved >= *pages, "{moved} of {pages} pages moved");
    only_in(&frames(&fd), "while a block is offline");
    block.set_state("online_movable").unwrap();
    drop((guest, fd));
    only_in(&[], "closed");
}

/// The memory that failed keeps its content, as nobody touches it again; what was copied
/// from it is erased.
fn a_failed_move() {
    const LOST: usize = 3;
    let fd = movable(SIZE);
    let guest = secretive(&fd);
    let before = frames(&fd);
    let failing = FailingCopies::next(LOST as u64);
    let moved = fd.move_range(0..SIZE, None);
    drop(failing);
    assert!(moved.is_err(), "no copy failed");
    let gone = || {
        fd.pages(0..SIZE)
            .unwrap()
            .iter()
            .filter(|p| p.is_none())
            .count()
            == LOST
    };
    assert!(wait_for(PATIENCE, gone), "failed pages stay in the file");
    let lost = fd.pages(0..SIZE).unwrap().into_iter().zip(before);
    let lost: Vec<u64> = lost
        .filter_map(|(now, old)| now.is_none().then_some(old))
        .collect();
    only_in(
        &[frames(&fd), lost.clone()].concat(),
        "when copies had failed",
    );
    drop((guest, fd));
    only_in(&lost, "closed");
    for pfn in lost {
        unpoison(pfn).unwrap();
    }
}

fn punched() {
    let fd = movable(SIZE);
    let guest = secretive(&fd);
    fd.punch_hole(SIZE / 4..SIZE / 2).unwrap();
    assert_eq!(frames(&fd).len() as u64, PAGES * 3 / 4);
    only_in(&frames(&fd), "punched");
    fd.punch_hole(0..SIZE).unwrap();
    only_in(&[], "punched all");
    drop(guest);
}

fn closed_by_the_death_of_a_process() {
    let mut task = child("die", &[]);
    let output = BufReader::new(task.stdout.take().unwrap());
    let said = output
        .lines()
        .map(Result::unwrap)
        .find(|l| l.starts_with("vm "));
    look_for(&said.expect("what the VMM's guest has written"));
    assert_eq!(
        found().len() as u64,
        PAGES,
        "pages with content while the VM lives"
    );
    signal(&task, rustix::process::Signal::KILL);
    task.wait().unwrap();
    only_in(&[], "when the VMM was killed");
}

/// What a child does: a VM with content, until it is killed.
fn die() -> ExitCode {
    let fd = movable(SIZE);
    let mut guest = Guest::new(&fd, 1);
    let round = std::process::id() | 1 << 30;
    guest.vcpus[0]
        .control()
        .set(Field::Started, u64::from(round) - 1);
    guest.fill();
    println!("vm {:x} {round:x} {SIZE:x}", guest.job.seed);
    loop {
        std::thread::park();
    }
}

/// The failed memory itself is not touched, so it may keep what it had.
fn failed_memory() {
    let inject = "/sys/kernel/debug/hwpoison/corrupt-pfn";
    if !std::path::Path::new(inject).exists() {
        skip("no memory failures here (insmod hwpoison-inject.ko)");
    }
    let fd = movable(SIZE);
    let guest = secretive(&fd);
    let bad = frames(&fd)[5];
    fs::write(inject, format!("{bad:#x}")).unwrap();
    let mut allowed = frames(&fd);
    allowed.retain(|pfn| *pfn != bad);
    let mut left = found();
    assert_eq!(
        left.remove(&bad),
        Some(WORDS),
        "the failed memory was touched"
    );
    let others: Found = allowed.iter().map(|pfn| (*pfn, WORDS)).collect();
    assert_eq!(left, others, "when a page has failed");
    fd.punch_hole(5 * PAGE..6 * PAGE).unwrap();
    drop(guest);
    drop(fd);
    let mut left = found();
    left.remove(&bad);
    assert_eq!(left, Found::new(), "closed");
    unpoison(bad).unwrap();
    // Whoever takes a failure back gets the memory as it is (design.rst).
    let mut left = found();
    left.remove(&bad);
    assert_eq!(left, Found::new(), "when the failure was taken back");
}

/// Where a TD's content may be found: nowhere. With PLAIN_TDS in the environment the
/// emulated TDX module has no cipher, and content is in the file's pages: this shows
/// that it would be found.
#[track_caller]
fn td_content(fd: &PrivMemFd, when: &str) {
    only_in(&if plain_tds() { frames(fd) } else { Vec::new() }, when);
}

/// Whether the TDX module has no cipher.
fn plain_tds() -> bool {
    std::env::var_os("PLAIN_TDS").is_some()
}

fn tds() {
    let tdx = Tdx::running(PAGES, 1);
    look_for(&format!("td {:x} {SIZE:x}", tdx.seed));
    td_content(&tdx.fd, "written by a TD");
    assert_eq!(tdx.move_all(), PAGES);
    td_content(&tdx.fd, "moved by the TDX module");
    tdx.fd.punch_hole(0..8 * PAGE).unwrap();
    td_content(&tdx.fd, "punched");
    if plain_tds() {
        // What the TDX module keeps for a while is given back as it is: noise, but for this.
        return;
    }
    for leaf in MOVE_LEAVES
        .iter()
        .filter(|l| **l != "TDH.MEM.RANGE.UNBLOCK")
    {
        let faults = Faults::inject(&format!("{leaf} nth=1 status=0xc000030000000008"));
        let _ = tdx.fd.move_range(tdx.all(), None);
        drop(faults);
        td_content(&tdx.fd, &format!("when {leaf} had failed"));
    }
    let Tdx { td, fd, .. } = tdx;
    drop(td);
    td_content(&fd, "when the TD is gone");
    drop(fd);
    only_in(&[], "closed");
}

fn lost_tds() {
    let tdx = Tdx::running(PAGES, 1);
    look_for(&format!("td {:x} {SIZE:x}", tdx.seed));
    let refused = "nth=1 repeat=0 status=0xc000030000000008";
    let rules = format!("TDH.MEM.PAGE.RELOCATE {refused}\nTDH.MEM.RANGE.UNBLOCK {refused}");
    let faults = Faults::inject(&rules);
    let moved = tdx.fd.move_range(0..4 * PAGE, None);
    drop(faults);
    assert!(moved.is_err() && tdx.td.is_dead(), "{moved:?}");
    td_content(&tdx.fd, "of a lost TD");
    let Tdx { td, fd, .. } = tdx;
    drop(td);
    td_content(&fd, "when the lost TD is gone");
}

fn main() -> ExitCode {
    if role().is_some_and(|(name, _)| name == "die") {
        return die();
    }
    ktap::main(cases![
        "content is in the file's pages, also when the VM is gone" => content_is_in_the_file,
        "moved pages leave nothing" => moved,
        "compaction leaves nothing" => compacted,
        "offlining leaves nothing" => offline,
        "a failed move leaves nothing" => a_failed_move,
        "punched pages leave nothing" => punched,
        "the death of a VMM leaves nothing" => closed_by_the_death_of_a_process,
        "failed memory is the only one that may keep content" => failed_memory,
        "a TD's content is nowhere" => tds,
        "a lost TD's content is nowhere" => lost_tds,
    ])
}
