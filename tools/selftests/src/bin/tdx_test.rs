// SPDX-License-Identifier: GPL-2.0
//! Memory of TDs moves by the TDX module, with its content. The guest checks the
//! content; the host looks at what it may see of a debuggable TD.

use std::os::fd::AsFd;
use std::os::unix::thread::JoinHandleExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use privmemctl::memory::ShortFreeLists;
use privmemfd_ioctls::{Mobility, Refusal};
use selftests::cases;
use selftests::fixtures::{
    fails, file, for_compaction, movable, unload, wait_for, Guest, PAGE, PATIENCE,
};
use selftests::hostmem::{compact, movable_blocks, offlinable, until_moved, CompactUnevictable};
use selftests::ktap::{self, note};
use selftests::tdx::emulator::{clear_counters, Counters};
use selftests::tdx::{device, pin_to, Crew, Tdx};
use tdhost::uapi::{tdhost_create, tdhost_pages, tdhost_run, tdhost_stat, TDXEMU_EVE};
use tdhost::{sys, word, Command, SeptState};
use vmm::Exit;

const PAGES: u64 = 512;
/// Most pages that are moved with one TRACK and one kick.
const BATCH: u64 = 32;
/// Memory blocks to take offline; one takes a second or more.
const MOST_BLOCKS: usize = 2;

fn a_td_runs() {
    let tdx = Tdx::empty(PAGES, 1);
    let half = tdx.all().end / 2;
    tdx.td.add(0..half, tdx.seed).unwrap();
    tdx.td.aug(half..tdx.all().end).unwrap();
    assert_eq!(tdx.in_state(SeptState::Mapped), PAGES / 2);
    assert_eq!(tdx.in_state(SeptState::Pending), PAGES / 2);
    tdx.td.finalize().unwrap();
    tdx.ok(0, Command::Verify(tdx.seed), 0..half);
    tdx.ok(0, Command::Accept, half..tdx.all().end);
    assert_eq!(tdx.td.read(half).unwrap(), 0, "accepted memory is zero");
    tdx.ok(0, Command::Fill(tdx.seed), half..tdx.all().end);
    tdx.verify();
    for gpa in [0, 8, half - 8, half, tdx.all().end - 8] {
        assert_eq!(tdx.td.read(gpa).unwrap(), word(tdx.seed, gpa), "{gpa:#x}");
    }
}

fn content_is_kept_by_move() {
    let tdx = Tdx::running(PAGES, 1);
    for _ in 0..3 {
        let before = tdx.fd.pages(tdx.all()).unwrap();
        assert_eq!(tdx.move_all(), PAGES);
        let after = tdx.fd.pages(tdx.all()).unwrap();
        assert!(before.iter().zip(&after).all(|(a, b)| a != b));
        tdx.verify();
    }
    assert_eq!(tdx.td.stat().unwrap().moved, 3 * PAGES);
    assert_eq!(tdx.fd.stat().unwrap().relocated, 3 * PAGES);
}

fn one_relocate_per_page() {
    let tdx = Tdx::running(PAGES, 1);
    let before = tdx.td.stat().unwrap();
    clear_counters();
    assert_eq!(tdx.move_all(), PAGES);
    let c = Counters::read();
    let kicks = tdx.td.stat().unwrap().kicks - before.kicks;
    let tracks = c.calls("TDH.MEM.TRACK");
    assert_eq!(c.calls("TDH.MEM.PAGE.RELOCATE"), PAGES);
    assert_eq!(c.calls("TDH.MEM.RANGE.BLOCK"), PAGES);
    assert_eq!(c.calls("TDH.PHYMEM.PAGE.WBINVD"), PAGES);
    assert_eq!(c.calls("TDH.MEM.RANGE.UNBLOCK"), 0);
    // Not fewer either: a vCPU may be in the guest at any time.
    assert_eq!(tracks, PAGES.div_ceil(BATCH));
    assert_eq!(kicks, PAGES.div_ceil(BATCH));
    tdx.verify();
}

fn a_running_td_keeps_every_byte() {
    let tdx = Arc::new(Tdx::running(PAGES, 2));
    let crew = Crew::start(&tdx);
    let mut moved = 0;
    for _ in 0..5 {
        moved += tdx.move_all();
        crew.goes_on();
    }
    let rounds = crew.end();
    tdx.verify();
    let s = tdx.td.stat().unwrap();
    note(format!(
        "{moved} pages moved in {rounds} rounds of the guest, {} entries",
        s.entries
    ));
    assert_eq!(moved, 5 * PAGES);
    assert_eq!(s.moved, moved);
    assert!(s.entries > 100, "the guest did not run: {s:?}");
}

fn compaction_moves_pages() {
    // Not so by default on PREEMPT_RT.
    let _allowed = CompactUnevictable::allowed(true);
    let _lists = ShortFreeLists::new().unwrap();
    until_moved(compacted_below_a_td);
}

/// Pages that compaction has moved, of a TD that has kept every byte.
fn compacted_below_a_td() -> u64 {
    let fd = for_compaction(4 * PAGES * PAGE);
    let tdx = Tdx::on(fd, 4 * PAGES, 1).boot();
    // Every other page goes: what stays lies among holes.
    for n in (0..4 * PAGES).step_by(2) {
        tdx.fd.punch_hole(tdx.page(n)).unwrap();
    }
    assert_eq!(tdx.td.stat().unwrap().mapped, 2 * PAGES);
    let before = tdx.td.stat().unwrap().moved;
    (0..10).for_each(|_| compact());
    let moved = tdx.td.stat().unwrap().moved - before;
    for n in (1..4 * PAGES).step_by(2) {
        tdx.ok(0, Command::Verify(tdx.seed), tdx.page(n));
    }
    tdx.check_mapping();
    moved
}

/// Takes blocks with pages of the TD offline; returns how many let it.
fn offline_some(tdx: &Tdx) -> u64 {
    let size = tdx.pages * PAGE;
    let mut offlined = 0;
    for (block, pages) in movable_blocks(&tdx.fd, size).into_iter().take(MOST_BLOCKS) {
        let before = tdx.td.stat().unwrap().moved;
        if let Err(e) = block.set_state("offline") {
            note(format!("memory{} refused: {e}", block.index));
            continue;
        }
        let moved = tdx.td.stat().unwrap().moved - before;
        let left = movable_blocks(&tdx.fd, size);
        block.set_state("online_movable").unwrap();
        let stays = left.iter().any(|(b, _)| b.index == block.index);
        assert!(!stays, "pages in an offline block");
        assert!(moved >= pages, "{moved} of {pages} pages counted");
        offlined += 1;
    }
    offlined
}

fn offline_moves_pages() {
    let tdx = Arc::new(Tdx::on(offlinable(PAGES * PAGE), PAGES, 2).boot());
    let crew = Crew::start(&tdx);
    let offlined = offline_some(&tdx);
    crew.goes_on();
    crew.end();
    tdx.verify();
    assert!(offlined > 0, "every block with pages refused, see above");
}

/// As on request: mm would have each page kick the vCPU.
fn offline_moves_pages_in_batches() {
    let tdx = Tdx::on(offlinable(PAGES * PAGE), PAGES, 1).boot();
    let mut blocks = movable_blocks(&tdx.fd, PAGES * PAGE);
    blocks.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    let (block, pages) = &blocks[0];
    let kicks = tdx.td.stat().unwrap().kicks;
    clear_counters();
    block.set_state("offline").unwrap();
    let c = Counters::read();
    let kicks = tdx.td.stat().unwrap().kicks - kicks;
    let left = movable_blocks(&tdx.fd, PAGES * PAGE);
    block.set_state("online_movable").unwrap();
    assert!(left.iter().all(|(b, _)| b.index != block.index));
    assert_eq!(c.calls("TDH.MEM.PAGE.RELOCATE"), *pages);
    assert_eq!(c.calls("TDH.MEM.TRACK"), pages.div_ceil(BATCH));
    assert_eq!(kicks, pages.div_ceil(BATCH));
    tdx.verify();
}

fn pending_pages_move() {
    let tdx = Tdx::empty(PAGES, 1);
    tdx.td.finalize().unwrap();
    tdx.td.aug(tdx.all()).unwrap();
    for _ in 0..2 {
        assert_eq!(tdx.move_all(), PAGES);
        assert_eq!(tdx.in_state(SeptState::Pending), PAGES);
        tdx.check_mapping();
    }
    tdx.ok(0, Command::Accept, tdx.all());
    for gpa in tdx.all().step_by(PAGE as usize) {
        assert_eq!(tdx.td.read(gpa).unwrap(), 0, "accepted memory is zero");
    }
    tdx.ok(0, Command::Fill(tdx.seed), tdx.all());
    tdx.verify();
}

fn a_td_that_is_built_moves_without_tracking() {
    let tdx = Tdx::empty(PAGES, 1);
    let half = tdx.all().end / 2;
    tdx.td.add(0..half, tdx.seed).unwrap();
    tdx.td.aug(half..tdx.all().end).unwrap();
    clear_counters();
    assert_eq!(tdx.move_all(), PAGES);
    let c = Counters::read();
    assert_eq!(c.calls("TDH.MEM.PAGE.RELOCATE"), PAGES);
    assert_eq!(c.calls("TDH.MEM.RANGE.BLOCK"), 0);
    assert_eq!(c.calls("TDH.MEM.TRACK"), 0);
    assert_eq!(tdx.td.stat().unwrap().kicks, 0);
    tdx.check_mapping();
    tdx.td.finalize().unwrap();
    tdx.ok(0, Command::Verify(tdx.seed), 0..half);
    tdx.ok(0, Command::Accept, half..tdx.all().end);
}

fn pages_that_the_td_has_not_move_without_seamcalls() {
    let tdx = Tdx::empty(PAGES, 1);
    tdx.td.finalize().unwrap();
    tdx.fd.allocate(tdx.all()).unwrap();
    clear_counters();
    assert_eq!(tdx.move_all(), PAGES);
    let c = Counters::read();
    assert_eq!(c.calls("TDH.MEM.PAGE.RELOCATE"), 0);
    assert_eq!(c.calls("TDH.MEM.RANGE.BLOCK"), 0);
    tdx.ok(0, Command::Accept, tdx.all());
    tdx.check_mapping();
}

fn holes_take_pages_from_the_td() {
    let tdx = Tdx::running(PAGES, 1);
    let hole = 256 * PAGE..512 * PAGE;
    tdx.fd.punch_hole(hole.clone()).unwrap();
    assert_eq!(tdx.in_state(SeptState::Free), 256);
    assert_eq!(tdx.td.stat().unwrap().removed, 256);
    assert_eq!(tdx.move_all(), PAGES - 256);
    let touched = tdx.td.run(0, Command::Touch(1), hole.clone()).unwrap();
    assert_eq!(touched.code, TDXEMU_EVE, "not accepted: {touched:?}");
    tdx.ok(0, Command::Accept, hole.start..hole.start + PAGE);
    assert_eq!(tdx.td.read(hole.start).unwrap(), 0, "new memory is zero");
    tdx.ok(0, Command::Accept, hole.start + PAGE..hole.end);
    tdx.ok(0, Command::Fill(tdx.seed), hole);
    tdx.verify();
}

fn pinned_memory_stays() {
    let tdx = Tdx::on(file(PAGES * PAGE, Mobility::Pinned), PAGES, 1).boot();
    let before = tdx.fd.pages(tdx.all()).unwrap();
    fails(
        tdx.fd.move_range(tdx.all(), None),
        libc::EBUSY,
        "MOVE of a pinned file",
    );
    compact();
    assert_eq!(tdx.fd.pages(tdx.all()).unwrap(), before);
    assert!(tdx.fd.stat().unwrap().refused_for(Refusal::Pinned) > 0);
    tdx.verify();
}

fn the_host_sees_no_content() {
    let tdx = Tdx::running(16, 1);
    let Tdx { td, fd, seed, .. } = tdx;
    drop(td);
    // What the TD has left lies in its memory; another guest looks at a word of
    // each cache line.
    let mut guest = Guest::new(&fd, 1);
    let mut not_zero = 0;
    for gpa in (0..16 * PAGE).step_by(64) {
        let Exit::Done(seen) = guest.read(guest.memory().start + gpa) else {
            panic!("the guest cannot read {gpa:#x}");
        };
        assert_ne!(seen, word(seed, gpa), "{gpa:#x}");
        not_zero += u64::from(seen != 0);
    }
    note(format!(
        "{not_zero} of {} words are not zero",
        16 * PAGE / 64
    ));
}

fn a_file_belongs_to_one() {
    let tdx = Tdx::empty(PAGES, 1);
    let create = |fd| device().create(fd, PAGES, 1, false);
    fails(create(&tdx.fd), libc::EBUSY, "a second TD on the file");
    drop(tdx.td);
    drop(create(&tdx.fd).unwrap());
    let guest = Guest::new(&tdx.fd, 1);
    fails(create(&tdx.fd), libc::EBUSY, "a TD on a VM's file");
    drop(guest);
    create(&tdx.fd).unwrap();
}

fn modules_stay_while_used() {
    let tdx = Tdx::running(PAGES, 1);
    for module in [c"privmemfd", c"tdhost"] {
        fails(unload(module), libc::EAGAIN, "unloading");
    }
    tdx.verify();
}

fn key_ids_come_back() {
    // There are 31.
    let fd = movable(8 * PAGE);
    for _ in 0..40 {
        let td = device().create(&fd, 8, 2, false).unwrap();
        td.add(0..8 * PAGE, 1).unwrap();
        td.finalize().unwrap();
        assert_eq!(
            td.run(1, Command::Verify(1), 0..8 * PAGE)
                .unwrap()
                .mismatches,
            0
        );
    }
    let tds: Vec<_> = std::iter::from_fn(|| {
        let fd = movable(PAGE);
        device().create(&fd, 1, 1, false).ok()
    })
    .collect();
    assert_eq!(tds.len(), 31);
    let fd = movable(PAGE);
    fails(
        device().create(&fd, 1, 1, false),
        libc::EBUSY,
        "more TDs than KeyIDs",
    );
}

fn a_vcpu_changes_cpus() {
    let tdx = Tdx::running(PAGES, 2);
    for round in 0..6 {
        pin_to(round % 2);
        for vcpu in 0..2 {
            tdx.ok(vcpu, Command::Verify(tdx.seed), tdx.all());
        }
        tdx.move_all();
    }
    tdx.verify();
}

extern "C" fn nothing(_: libc::c_int) {}

fn a_signal_interrupts() {
    let handler = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the structure is plain data, and all-zero is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: the handler does nothing, which it may do at any time.
    let ret = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    assert_eq!(ret, 0);
    let tdx = Arc::new(Tdx::running(PAGES, 2));
    let t = tdx.clone();
    let thread = thread::spawn(move || t.td.run(1, Command::Spin(0), t.all()));
    assert!(wait_for(PATIENCE, || {
        thread::sleep(Duration::from_millis(50));
        // SAFETY: the thread has not been joined.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
        thread.is_finished()
    }));
    fails(thread.join().unwrap(), libc::EINTR, "a run with a signal");
    let busy = tdx.td.run(1, Command::Accept, tdx.all());
    fails(busy, libc::EBUSY, "another command");
    // The other vCPU does not care, and what moves neither.
    tdx.move_all();
    tdx.verify();
}

fn errors() {
    let tdx = Tdx::empty(PAGES, 1);
    let device = device();
    let good = tdhost_create {
        pages: 1,
        vcpus: 1,
        memory: -1,
        ..Default::default()
    };
    let create = |arg: tdhost_create| sys::create(device.as_fd(), &arg);
    fails(create(good), libc::EBADF, "no file");
    for (what, arg) in [
        ("flag", tdhost_create { flags: 2, ..good }),
        (
            "reserved",
            tdhost_create {
                reserved: [0, 0, 0, 1],
                ..good
            },
        ),
        ("no page", tdhost_create { pages: 0, ..good }),
        ("no vCPU", tdhost_create { vcpus: 0, ..good }),
    ] {
        fails(create(arg), libc::EINVAL, what);
    }
    let small = movable(PAGE);
    fails(
        device.create(&small, 2, 1, false),
        libc::EINVAL,
        "too small",
    );
    let other = std::fs::File::open("/dev/null").unwrap();
    fails(
        device.create(&other, 1, 1, false),
        libc::EINVAL,
        "no privmemfd",
    );

    let td = tdx.td.as_fd();
    let pages = |arg: tdhost_pages| sys::add(td, &mut { arg });
    let one = tdhost_pages {
        pages: 1,
        ..Default::default()
    };
    for (what, arg) in [
        ("not aligned", tdhost_pages { gpa: 8, ..one }),
        (
            "beyond the end",
            tdhost_pages {
                gpa: PAGES * PAGE,
                ..one
            },
        ),
        (
            "reserved",
            tdhost_pages {
                reserved: [1, 0],
                ..one
            },
        ),
    ] {
        fails(pages(arg), libc::EINVAL, what);
    }
    pages(one).unwrap();
    fails(pages(one), libc::EEXIST, "a page twice");
    let run = tdx.td.run(0, Command::Accept, tdx.all());
    fails(run, libc::EBUSY, "a TD that is not finalized");
    tdx.td.finalize().unwrap();
    fails(tdx.td.finalize(), libc::EBUSY, "finalized twice");
    fails(
        pages(tdhost_pages { gpa: PAGE, ..one }),
        libc::EBUSY,
        "ADD too late",
    );
    fails(
        tdx.td.run(1, Command::Accept, tdx.all()),
        libc::ENOENT,
        "no vCPU",
    );
    fails(
        tdx.td.run(0, Command::Continue, 0..0),
        libc::ENOENT,
        "nothing to go on with",
    );
    fails(
        tdx.td
            .run(0, Command::Touch(1), tdx.all().end..tdx.all().end + PAGE),
        libc::EFAULT,
        "no memory",
    );
    fails(tdx.td.read(PAGE), libc::ENXIO, "no page");
    let mut run = tdhost_run {
        reserved: [0, 1],
        ..Default::default()
    };
    fails(sys::run(td, &mut run), libc::EINVAL, "reserved");
    let mut stat = tdhost_stat {
        reserved: [0, 0, 1],
        ..Default::default()
    };
    fails(sys::stat(td, &mut stat), libc::EINVAL, "reserved");
    let production = device.create(&small, 1, 1, false).unwrap();
    fails(
        production.read(0),
        libc::EPERM,
        "READ of a TD without debug",
    );
    // The wrong kind of descriptor.
    let mut stat = tdhost_stat::default();
    let wrong = sys::stat(device.as_fd(), &mut stat);
    fails(wrong, libc::ENOTTY, "STAT of the device");
}

fn main() -> ExitCode {
    ktap::main(cases![
        "a TD runs on a privmemfd" => a_td_runs,
        "MOVE keeps a TD's content" => content_is_kept_by_move,
        "one RELOCATE for a page, one TRACK and kick for a batch" => one_relocate_per_page,
        "a running TD keeps every byte over MOVE" => a_running_td_keeps_every_byte,
        "compaction moves a TD's pages and keeps content" => compaction_moves_pages,
        "offlining a memory block moves a running TD's pages" => offline_moves_pages,
        "offlining a memory block kicks the vCPU once for a batch" => offline_moves_pages_in_batches,
        "pages that wait to be accepted move, and are accepted then" => pending_pages_move,
        "pages of a TD that is being built move without BLOCK and TRACK" => a_td_that_is_built_moves_without_tracking,
        "pages that the TD has not move without SEAMCALLs" => pages_that_the_td_has_not_move_without_seamcalls,
        "holes take pages from the TD, and it gets new ones" => holes_take_pages_from_the_td,
        "pinned memory of a TD stays" => pinned_memory_stays,
        "another guest sees nothing of what a TD wrote" => the_host_sees_no_content,
        "a file belongs to one TD or to VMs" => a_file_belongs_to_one,
        "modules stay while a TD uses them" => modules_stay_while_used,
        "KeyIDs come back" => key_ids_come_back,
        "a vCPU changes CPUs while pages move" => a_vcpu_changes_cpus,
        "a signal interrupts a run" => a_signal_interrupts,
        "every error of tdhost" => errors,
    ])
}
