// SPDX-License-Identifier: GPL-2.0
//! Relocation by the TDX module against everything else that can happen to a TD
//! at the same time, for some seconds each.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use selftests::cases;
use selftests::fixtures::{movable, PAGE, PATIENCE};
use selftests::hostmem::{
    offlinable_for_long, offline_and_back, CompactUnevictable, Compactor, Mover,
};
use selftests::ktap::{self, note};
use selftests::race::{repeat, Dice};
use selftests::tdx::{device, emulator, pin_to, Crew, Tdx};
use tdhost::{Command, SeptState, Td};

const PAGES: u64 = 512;
const TIME: Duration = Duration::from_secs(5);

fn report(what: &str, count: u64, moved: u64) {
    note(format!("{count} times {what}, {moved} pages moved"));
    assert!(count > 0 && moved > 0, "nothing raced");
    assert!(!emulator::is_dead(), "the TDX module has shut itself down");
    assert_eq!(emulator::stray_writes(), 0, "the host wrote to a TD's page");
}

/// A TD at work, pages moving, and `step` again and again.
fn against(what: &str, tdx: Tdx, step: impl FnMut(&Tdx, &mut Dice)) {
    against_on(None, what, tdx, step);
}

/// The same, with pages that move to this node.
fn against_on(node: Option<u32>, what: &str, tdx: Tdx, mut step: impl FnMut(&Tdx, &mut Dice)) {
    let tdx = Arc::new(tdx);
    let crew = Crew::start(&tdx);
    let mover = Mover::start_on(&tdx.fd, node);
    let count = repeat(TIME, |dice| step(&tdx, dice));
    mover.end();
    crew.goes_on();
    crew.end();
    tdx.verify();
    let s = tdx.td.stat().unwrap();
    assert_eq!(s.dead, 0, "{s:?}");
    note(format!(
        "{} waits, {} faults, {} retries",
        s.waits, s.faults, s.retries
    ));
    report(what, count, s.moved);
}

fn vcpus() {
    against("nothing else", Tdx::running(PAGES, 2), |_, _| {
        thread::sleep(Duration::from_millis(50));
    });
}

fn vcpus_that_change_cpus() {
    let mut n = 0;
    against("moved to another CPU", Tdx::running(PAGES, 2), |_, _| {
        // The vCPUs' threads are where the scheduler puts them; this one pushes.
        n += 1;
        pin_to(n % 2);
        let end = Instant::now() + Duration::from_millis(5);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    });
}

fn holes_and_faults() {
    // vCPU 0 to 2 work on what stays; vCPU 3 accepts and fills what went.
    let mut tdx = Tdx::running(PAGES, 4);
    let first = tdx.share(3).start / PAGE;
    let own = tdx.pages - first;
    tdx.vcpus = 3;
    tdx.pages = first;
    let all = Arc::new(tdx);
    let crew = Crew::start(&all);
    let mover = Mover::start(&all.fd);
    let mut punched = 0;
    let count = repeat(TIME, |dice| {
        let hole = dice.range(first, own);
        all.fd.punch_hole(hole.clone()).unwrap();
        punched += (hole.end - hole.start) / PAGE;
        all.ok(3, Command::Accept, hole.clone());
        assert_eq!(all.td.read(hole.start).unwrap(), 0, "new memory is zero");
        all.ok(3, Command::Fill(all.seed), hole);
        all.ok(
            3,
            Command::Verify(all.seed),
            first * PAGE..(first + own) * PAGE,
        );
    });
    mover.end();
    crew.goes_on();
    crew.end();
    all.verify();
    let s = all.td.stat().unwrap();
    assert_eq!((s.removed, s.dead), (punched, 0), "{s:?}");
    report("punched and faulted", count, s.moved);
}

fn holes_alone() {
    // Nobody gives the pages back: the hole may come at any moment of a move.
    let mut moved = 0;
    let count = repeat(TIME, |dice| {
        let tdx = Tdx::running(64, 1);
        let mover = Mover::start(&tdx.fd);
        for _ in 0..32 {
            tdx.fd.punch_hole(dice.range(0, 64)).unwrap();
        }
        mover.end();
        tdx.check_mapping();
        moved += tdx.td.stat().unwrap().moved;
    });
    report("punched 32 holes", count, moved);
}

fn finalize() {
    let mut moved = 0;
    let count = repeat(TIME, |_| {
        let tdx = Tdx::empty(128, 1);
        let half = tdx.all().end / 2;
        let mover = Mover::start(&tdx.fd);
        tdx.td.add(0..half, tdx.seed).unwrap();
        tdx.td.aug(half..tdx.all().end).unwrap();
        tdx.td.finalize().unwrap();
        tdx.ok(0, Command::Accept, half..tdx.all().end);
        tdx.ok(0, Command::Fill(tdx.seed), half..tdx.all().end);
        tdx.ok(0, Command::Verify(tdx.seed), tdx.all());
        mover.end();
        tdx.verify();
        assert_eq!(tdx.in_state(SeptState::Mapped), 128);
        moved += tdx.td.stat().unwrap().moved;
    });
    report("built and finalized", count, moved);
}

fn run_all(td: &Td, command: Command) {
    let report = td.run(0, command, 0..64 * PAGE).unwrap();
    assert_eq!(
        (report.code, report.mismatches),
        (0, 0),
        "{command:?}: {report:x?}"
    );
}

fn destruction() {
    let fd = movable(64 * PAGE);
    fd.allocate(0..64 * PAGE).unwrap();
    let mover = Mover::start(&fd);
    let mut moved = 0;
    let count = repeat(TIME, |dice| {
        let td = device().create(&fd, 64, 1, false).unwrap();
        td.finalize().unwrap();
        let seed = dice.below(u64::MAX);
        run_all(&td, Command::Accept);
        run_all(&td, Command::Fill(seed));
        run_all(&td, Command::Verify(seed));
        moved += td.stat().unwrap().moved;
    });
    mover.end();
    report("made and destroyed a TD", count, moved);
}

/// First the last descriptor goes, then the TD, which is all that has kept the file since.
fn close() {
    let _allowed = CompactUnevictable::allowed(true);
    let _compactor = Compactor::start();
    let mut moved = 0;
    let count = repeat(TIME, |dice| {
        let fd = movable(64 * PAGE);
        let td = device().create(&fd, 64, 1, false).unwrap();
        td.finalize().unwrap();
        let seed = dice.below(u64::MAX);
        run_all(&td, Command::Accept);
        run_all(&td, Command::Fill(seed));
        let mover = Mover::start(&fd);
        drop(fd);
        run_all(&td, Command::Verify(seed));
        moved += td.stat().unwrap().moved;
        // It has the last.
        mover.end();
        run_all(&td, Command::Verify(seed));
        drop(td);
    });
    report("closed the file", count, moved);
}

fn offline() {
    let size = 4 * PAGES * PAGE;
    let (fd, node, _fillers) = offlinable_for_long(size);
    let tdx = Tdx::on(fd, 4 * PAGES, 2).boot();
    let mut times = 0;
    let end = Instant::now() + PATIENCE;
    against_on(node, "tried to take a block offline", tdx, |tdx, _| loop {
        times += offline_and_back(&tdx.fd, size);
        if times > 0 || Instant::now() > end {
            break;
        }
    });
    note(format!("{times} blocks offline and online again"));
    assert!(times > 0, "no block went offline");
}

fn looking() {
    against("read", Tdx::running(PAGES, 2), |tdx, dice| {
        let gpa = dice.below(PAGES) * PAGE;
        tdx.td.read(gpa).unwrap();
        let s = tdx.td.sept(gpa).unwrap();
        assert_eq!((s.state, s.pfn), (SeptState::Mapped, s.mirror), "{gpa:#x}");
    });
}

fn main() -> ExitCode {
    ktap::main(cases![
        "relocation against vCPUs" => vcpus,
        "relocation against vCPUs that change CPUs" => vcpus_that_change_cpus,
        "relocation against holes and faults that fill them" => holes_and_faults,
        "relocation against holes alone" => holes_alone,
        "relocation against FINALIZE" => finalize,
        "relocation against the destruction of a TD" => destruction,
        "relocation against closing the file" => close,
        "relocation on request against offlining" => offline,
        "relocation against MEM.RD and SEPT.RD" => looking,
    ])
}
