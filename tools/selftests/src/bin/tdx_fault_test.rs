// SPDX-License-Identifier: GPL-2.0
//! Every status of every leaf that moves a page, injected while the guest runs.
//!
//! Each ends in one of four ways: the pages have moved; pages are where they
//! were and usable, and the host is told so; a page has moved, and its old place
//! is lost to the host until the TD is gone; the TD is lost. Which one is expected follows from what
//! the status means, see [`expected`]. In none does the guest see a wrong word,
//! or the host get a page that the TDX module still has.
//!
//! The matrix goes to the file that FAULT_MATRIX names, if it does.

use std::fs;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use privmemctl::memory::MemoryMap;
use selftests::cases;
use selftests::fixtures::{fails, in_movable_zone, role, wait_for, PAGE, PATIENCE};
use selftests::hostmem::{
    interrupt, movable_blocks, offlinable, offlining, offlining_role, page_flags, KPF_BUDDY,
    KPF_RESERVED,
};
use selftests::ktap::{self, note, skip};
use selftests::tdx::emulator::{self, Faults};
use selftests::tdx::Tdx;
use tdhost::Command;
use tdx_emu_model::leaf_statuses::{self, name, operand, IOMMU_IOTLB_TRACKING_NOT_DONE};
use tdx_emu_model::regs::{leaf, leaf_name, op};
use tdx_emu_model::status::{self, class, with_op};

/// Three batches, so that there is a second call of every leaf.
const PAGES: u64 = 96;
/// Moves until a rule with a chance has fired.
const TRIES: usize = 50;

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    First,
    Second,
    Random,
    Always,
}

impl When {
    fn rule(self) -> &'static str {
        match self {
            When::First => "nth=1",
            When::Second => "nth=2",
            When::Random => "random=1/4 seed=7",
            When::Always => "nth=1 repeat=0",
        }
    }

    fn name(self) -> &'static str {
        match self {
            When::First => "first",
            When::Second => "second",
            When::Random => "random",
            When::Always => "always",
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All pages have moved.
    Moved,
    /// Some have not, and are usable where they are.
    Kept,
    /// All have moved, but old places are of no use before the TD is gone.
    Unclean,
    /// The TD is lost, and told so.
    Lost,
}

/// What a status asks of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Try again, perhaps after a step that was missing.
    Again,
    /// It will not work.
    Refused,
    /// The TD, or the module, is of no more use.
    Fatal,
}

fn meaning(status: u64) -> Meaning {
    match class(status) {
        status::OPERAND_BUSY
        | status::PREVIOUS_TLB_EPOCH_BUSY
        | status::TLB_TRACKING_NOT_DONE
        | status::GPA_RANGE_NOT_BLOCKED
        | status::GPA_RANGE_ALREADY_BLOCKED
        | IOMMU_IOTLB_TRACKING_NOT_DONE => Meaning::Again,
        status::TD_FATAL
        | status::TD_KEYS_NOT_CONFIGURED
        | status::SYS_SHUTDOWN
        | status::SYS_NOT_READY => Meaning::Fatal,
        _ => Meaning::Refused,
    }
}

fn expected(leaf_no: u16, status: u64, when: When) -> &'static [Outcome] {
    use Outcome::{Kept, Lost, Moved, Unclean};
    match (leaf_no, meaning(status), when) {
        // A page that cannot be given back to the guest: the end, if it does not
        // pass.
        (leaf::MEM_RANGE_UNBLOCK, Meaning::Again, When::First | When::Second) => &[Kept],
        (leaf::MEM_RANGE_UNBLOCK, Meaning::Again, When::Random) => &[Kept, Lost],
        (leaf::MEM_RANGE_UNBLOCK, ..) => &[Lost],
        (_, Meaning::Fatal, _) => &[Lost],
        // The move is done by then.
        (leaf::PHYMEM_PAGE_WBINVD, Meaning::Again, When::Always) => &[Unclean],
        (leaf::PHYMEM_PAGE_WBINVD, Meaning::Again, _) => &[Moved],
        (leaf::PHYMEM_PAGE_WBINVD, ..) => &[Unclean],
        // Without TRACK there is no way back either.
        (leaf::MEM_TRACK, _, When::Always) => &[Lost],
        (leaf::MEM_TRACK, Meaning::Refused, When::Random) => &[Kept, Lost],
        (_, Meaning::Again, When::First | When::Second) => &[Moved],
        (_, Meaning::Again, _) => &[Moved, Kept],
        (_, Meaning::Refused, _) => &[Kept],
    }
}

/// A TD with a vCPU that works without pause.
struct Subject {
    tdx: Arc<Tdx>,
    stop: Arc<AtomicBool>,
    vcpu: JoinHandle<()>,
}

impl Subject {
    fn new() -> Self {
        let tdx = Arc::new(Tdx::running(PAGES, 1));
        let stop = Arc::new(AtomicBool::new(false));
        let (t, s) = (tdx.clone(), stop.clone());
        let vcpu = thread::spawn(move || work(&t, &s));
        Self { tdx, stop, vcpu }
    }

    /// Lets the vCPU end; it leaves the TD's own content, unless the TD is lost.
    fn rest(self) -> Arc<Tdx> {
        self.stop.store(true, Ordering::Relaxed);
        self.vcpu.join().expect("the vCPU has failed");
        self.tdx
    }
}

/// Whether the command succeeded; otherwise the TD is lost.
fn lives(tdx: &Tdx, command: Command) -> bool {
    match tdx.td.run(0, command, tdx.all()) {
        Ok(r) => assert_eq!((r.code, r.mismatches), (0, 0), "{command:?}: {r:x?}"),
        Err(e) => {
            assert_eq!(e.raw_os_error(), Some(libc::EIO), "{command:?}: {e}");
            assert!(tdx.td.is_dead(), "EIO of a TD that lives");
            return false;
        }
    }
    true
}

fn work(tdx: &Tdx, stop: &AtomicBool) {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let seed = tdx.seed ^ n << 32;
        if !lives(tdx, Command::Fill(seed)) || !lives(tdx, Command::Verify(seed)) {
            return;
        }
    }
    lives(tdx, Command::Fill(tdx.seed));
}

fn kept_pages() -> u64 {
    let file = "/sys/kernel/debug/privmemfd/tdx_pages_kept";
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
    text.trim().parse().unwrap()
}

/// Moves pages while the rules are in force, until one of `leaf` has fired.
fn move_with(tdx: &Tdx, leaf_no: u16, status: u64, when: When) -> Outcome {
    let leaf = leaf_name(leaf_no).unwrap();
    let mut rules = format!("{leaf} {} status={status:#x}\n", when.rule());
    if leaf_no == leaf::MEM_RANGE_UNBLOCK {
        // Otherwise there is nothing to unblock.
        let refused = with_op(status::PAGE_METADATA_INCORRECT, op::R8);
        rules += &format!("TDH.MEM.PAGE.RELOCATE nth=1 repeat=0 status={refused:#x}\n");
    }
    // A contended call is made many times.
    let pages = if when == When::Always { 8 } else { PAGES };
    let before = kept_pages();
    let faults = Faults::inject(&rules);
    let mut outcome = Outcome::Moved;
    for _ in 0..TRIES {
        match tdx.fd.move_range(0..pages * PAGE, None) {
            Ok(n) => assert_eq!(n, pages),
            Err(e) => {
                let transient = matches!(e.errno(), libc::EAGAIN | libc::EBUSY);
                assert!(transient, "{e}");
                outcome = Outcome::Kept;
            }
        }
        if emulator::faults_fired(leaf) > 0 {
            break;
        }
    }
    let fired = emulator::faults_fired(leaf);
    drop(faults);
    assert!(fired > 0, "{leaf} was not called");
    match outcome {
        _ if tdx.td.is_dead() => Outcome::Lost,
        Outcome::Moved if kept_pages() > before => Outcome::Unclean,
        other => other,
    }
}

/// What is left has to be usable.
fn check(subject: Subject, outcome: Outcome) {
    let tdx = subject.rest();
    if outcome == Outcome::Lost {
        let run = tdx.td.run(0, Command::Touch(1), tdx.all());
        assert_eq!(run.unwrap_err().raw_os_error(), Some(libc::EIO));
        let e = tdx.fd.move_range(tdx.all(), None).unwrap_err();
        assert_eq!(e.errno(), libc::EBUSY, "{e}");
    } else {
        tdx.verify();
        assert_eq!(tdx.move_all(), PAGES);
        tdx.verify();
    }
    assert_eq!(
        tdx.td.stat().unwrap().leaked,
        0,
        "pages lost by the harness"
    );
    drop(tdx);
    assert!(!emulator::has_tds(), "the TD is not gone");
    assert_eq!(emulator::stray_writes(), 0, "the host wrote to a TD's page");
    assert!(!emulator::is_dead(), "the TDX module has shut itself down");
}

fn record(leaf_no: u16, status: u64, when: When, outcome: Outcome) {
    let mut status_name = name(status).unwrap().to_owned();
    if let Some(operand) = operand(status) {
        status_name += "|";
        status_name += operand;
    }
    let line = format!(
        "{}\t{status_name}\t{}\t{outcome:?}\n",
        leaf_name(leaf_no).unwrap(),
        when.name()
    );
    if let Ok(path) = std::env::var("FAULT_MATRIX") {
        let file = fs::File::options().create(true).append(true).open(&path);
        file.and_then(|mut f| f.write_all(line.as_bytes()))
            .unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

/// All statuses of a leaf.
fn inject(leaf_no: u16, when: When) {
    let mut wrong = Vec::new();
    let mut count = [0; 4];
    for &status in leaf_statuses::of(leaf_no).expect("a leaf of the table") {
        let subject = Subject::new();
        let outcome = move_with(&subject.tdx, leaf_no, status, when);
        record(leaf_no, status, when, outcome);
        count[outcome as usize] += 1;
        if !expected(leaf_no, status, when).contains(&outcome) {
            wrong.push(format!(
                "{} {status:#x}: {outcome:?}",
                name(status).unwrap()
            ));
        }
        check(subject, outcome);
    }
    let [moved, kept, unclean, lost] = count;
    note(format!(
        "{moved} moved, {kept} kept, {unclean} moved and unclean, {lost} lost"
    ));
    assert!(wrong.is_empty(), "unexpected: {wrong:#?}");
}

/// Pages of `pfns` that are marked as kept; none of those may be free.
fn reserved(pfns: &[u64]) -> usize {
    let state = |pfn: &&u64| page_flags(**pfn) & (KPF_RESERVED | KPF_BUDDY);
    let kept = |pfn: &&u64| match state(pfn) {
        KPF_RESERVED => true,
        0 | KPF_BUDDY => false,
        _ => panic!("page {pfn:#x} is kept, and free"),
    };
    pfns.iter().filter(kept).count()
}

/// A page that cannot be taken back at once: neither free nor, with its memory block, to
/// be made free by going offline and coming back, before the TD is gone. Then it is free.
fn pages_are_kept_until_the_td_is_gone() {
    let tdx = Tdx::on(in_movable_zone(PAGES * PAGE), PAGES, 1).boot();
    let old: Vec<u64> = tdx
        .fd
        .pages(tdx.all())
        .unwrap()
        .into_iter()
        .flatten()
        .collect();
    let map = MemoryMap::read().unwrap();
    let movable = |pfn: &u64| map.block(map.block_of(*pfn)).is_movable();
    let Some(block) = old
        .iter()
        .find(|pfn| movable(pfn))
        .map(|pfn| map.block_of(*pfn))
    else {
        skip("no page of the TD in a block of movable memory");
    };

    let refused = with_op(status::PAGE_METADATA_INCORRECT, op::RCX);
    let rule = format!("TDH.PHYMEM.PAGE.WBINVD nth=1 repeat=0 status={refused:#x}");
    let faults = Faults::inject(&rule);
    let moved = tdx.fd.move_range(tdx.all(), None);
    drop(faults);
    assert_eq!(moved.unwrap(), PAGES);
    tdx.verify();

    assert_eq!(reserved(&old), old.len(), "while the TD lives");
    fails(
        map.block(block).set_state("offline"),
        libc::EBUSY,
        "offline",
    );
    assert_eq!(reserved(&old), old.len(), "when it was to go offline");
    drop(tdx);
    assert_eq!(reserved(&old), 0, "when the TD is gone");
}

/// A page that the TDX module would not give back is no ordinary memory: neither copied nor
/// moved nor erased, and when the TD is gone, no page of the file any more. The others are.
fn stuck_pages_do_not_move() {
    let tdx = Tdx::on(in_movable_zone(PAGES * PAGE), PAGES, 1).boot();
    let before = tdx.fd.pages(tdx.all()).unwrap();
    let before: Vec<u64> = before.into_iter().flatten().collect();
    tdx.lose();
    let (fd, all) = (tdx.fd.try_clone().unwrap(), tdx.all());

    assert_eq!(reserved(&before), 1);
    let is_stuck = |pfn: &u64| page_flags(*pfn) & KPF_RESERVED != 0;
    let stuck: Vec<bool> = before.iter().map(is_stuck).collect();
    drop(tdx);
    assert_eq!(reserved(&before), 0, "when the TD is gone");
    assert!(!emulator::has_tds(), "the TD is not gone");
    assert_eq!(emulator::stray_writes(), 0, "the host wrote to a TD's page");

    let there = fd.pages(all.clone()).unwrap();
    for ((before, there), stuck) in before.iter().zip(&there).zip(&stuck) {
        assert_eq!(*there, (!stuck).then_some(*before));
    }
    let moved = fd.move_range(all.clone(), None).map_err(|e| e.errno());
    assert_eq!(moved, Ok(PAGES - 1));
    // And a TD can have the file again.
    let next = Tdx::on(fd, PAGES, 1).boot();
    next.verify();
}

/// The TD is lost in the middle, and its pages stay: mm asks for them until a signal ends it.
fn a_lost_td_holds_nobody_up() {
    let tdx = Tdx::on(offlinable(PAGES * PAGE), PAGES, 1).boot();
    let mut blocks = movable_blocks(&tdx.fd, PAGES * PAGE);
    blocks.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    let (block, pages) = &blocks[0];
    assert!(*pages > 32, "one batch at most");
    let rule = format!("TDH.MEM.RANGE.BLOCK nth=33 status={:#x}", status::TD_FATAL);
    let before = tdx.td.stat().unwrap().moved;
    emulator::write("faults", &rule);
    let request = offlining(block);
    let lost = wait_for(PATIENCE, || tdx.td.is_dead());
    let errno = interrupt(request);
    emulator::write("faults", "clear");
    assert!(lost, "the TD is not lost");
    assert_eq!(errno, libc::EINTR);
    assert!(MemoryMap::read().unwrap().block(block.index).online);
    // The first batch had gone before, and those of the second that were blocked already.
    let moved = tdx.td.stat().unwrap().moved - before;
    assert!(moved >= 32 && moved < *pages, "{moved} of {pages} moved");
    assert_eq!(tdx.fd.stat().unwrap().pages, PAGES);
    assert_eq!(emulator::stray_writes(), 0, "the host wrote to a TD's page");
    drop(tdx);
    block.set_state("offline").unwrap();
    block.set_state("online_movable").unwrap();
}

/// One case for each leaf and each [`When`].
macro_rules! cells {
    ($($function:ident = $leaf:ident $when:ident;)*) => {
        $(fn $function() {
            inject(leaf::$leaf, When::$when);
        })*
    };
}

cells! {
    block_first = MEM_RANGE_BLOCK First;
    block_second = MEM_RANGE_BLOCK Second;
    block_random = MEM_RANGE_BLOCK Random;
    block_always = MEM_RANGE_BLOCK Always;
    track_first = MEM_TRACK First;
    track_second = MEM_TRACK Second;
    track_random = MEM_TRACK Random;
    track_always = MEM_TRACK Always;
    relocate_first = MEM_PAGE_RELOCATE First;
    relocate_second = MEM_PAGE_RELOCATE Second;
    relocate_random = MEM_PAGE_RELOCATE Random;
    relocate_always = MEM_PAGE_RELOCATE Always;
    unblock_first = MEM_RANGE_UNBLOCK First;
    unblock_second = MEM_RANGE_UNBLOCK Second;
    unblock_random = MEM_RANGE_UNBLOCK Random;
    unblock_always = MEM_RANGE_UNBLOCK Always;
    wbinvd_first = PHYMEM_PAGE_WBINVD First;
    wbinvd_second = PHYMEM_PAGE_WBINVD Second;
    wbinvd_random = PHYMEM_PAGE_WBINVD Random;
    wbinvd_always = PHYMEM_PAGE_WBINVD Always;
}

fn main() -> ExitCode {
    if let Some((_, arguments)) = role() {
        return offlining_role(&arguments);
    }
    ktap::main(cases![
        "the first RANGE.BLOCK fails" => block_first,
        "the second RANGE.BLOCK fails" => block_second,
        "some RANGE.BLOCK fail" => block_random,
        "every RANGE.BLOCK fails" => block_always,
        "the first TRACK fails" => track_first,
        "the second TRACK fails" => track_second,
        "some TRACK fail" => track_random,
        "every TRACK fails" => track_always,
        "the first PAGE.RELOCATE fails" => relocate_first,
        "the second PAGE.RELOCATE fails" => relocate_second,
        "some PAGE.RELOCATE fail" => relocate_random,
        "every PAGE.RELOCATE fails" => relocate_always,
        "the first RANGE.UNBLOCK fails" => unblock_first,
        "the second RANGE.UNBLOCK fails" => unblock_second,
        "some RANGE.UNBLOCK fail" => unblock_random,
        "every RANGE.UNBLOCK fails" => unblock_always,
        "the first PAGE.WBINVD fails" => wbinvd_first,
        "the second PAGE.WBINVD fails" => wbinvd_second,
        "some PAGE.WBINVD fail" => wbinvd_random,
        "every PAGE.WBINVD fails" => wbinvd_always,
        "a page that cannot be taken back is kept until the TD is gone" => pages_are_kept_until_the_td_is_gone,
        "a TD that is lost while its block goes offline holds nobody up" => a_lost_td_holds_nobody_up,
        "a page that a lost TD has kept is no page of the file any more" => stuck_pages_do_not_move,
    ])
}
