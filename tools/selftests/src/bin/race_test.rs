// SPDX-License-Identifier: GPL-2.0
//! Relocation against everything else that can happen to a file at the same
//! time, for some seconds each. The guest's cells tell lost writes, stale
//! pages and foreign content apart from what may be there.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use privmemctl::memory::ShortFreeLists;
use privmemfd_ioctls::PrivMemFd;
use rustix::process::Signal;
use selftests::cases;
use selftests::fixtures::{
    bind_or_skip, child, ended, for_compaction, movable, role, seed, signal, vm, wait_for, Cgroup,
    Guest, MIB, PAGE, PATIENCE,
};
use selftests::hostmem::{
    offlinable_for_long, offline_and_back, pages_relocated, punch_every_other_page,
    CompactUnevictable, Compactor, Mover,
};
use selftests::ktap::{self, note};
use selftests::race::{repeat, Dice};
use vmm::guest::{ALLOW_ZERO, ANY_ROUND, VERIFY, WRITE};
use vmm::layout::PRIVATE_BASE as BASE;
use vmm::{Crew, Job, VmType};

const SIZE: u64 = 8 * MIB;
const TIME: Duration = Duration::from_secs(4);

fn report(what: &str, count: u64, moved: u64) {
    note(format!(
        "{count} times {what}, {moved} pages moved on request"
    ));
    assert!(count > 0 && moved > 0, "nothing raced");
}

/// A guest at work, pages moving, and `step` again and again.
fn against(what: &str, flags: u64, patient: bool, step: impl FnMut(&Guest, &PrivMemFd, &mut Dice)) {
    against_on(movable(SIZE), None, what, flags, patient, step);
}

/// The same with this file, whose pages move to this node.
fn against_on(
    fd: PrivMemFd,
    node: Option<u32>,
    what: &str,
    flags: u64,
    patient: bool,
    mut step: impl FnMut(&Guest, &PrivMemFd, &mut Dice),
) {
    let mut guest = Guest::new(&fd, 2);
    guest.fill();
    guest.job.flags = WRITE | VERIFY | flags;
    guest.job.patient = patient;
    let crew = guest.run();
    let mover = Mover::start_on(&fd, node);
    let count = repeat(TIME, |dice| {
        // If a vCPU left, Guest::end says why.
        if !crew.any_left() {
            step(&guest, &fd, dice);
        }
    });
    let moved = mover.end();
    let crew = guest.goes_on(crew);
    guest.end(crew);
    report(what, count, moved);
}

fn vcpu_faults() {
    against("nothing else", 0, false, |_, _, _| {
        thread::sleep(Duration::from_millis(50));
    });
}

fn punch_hole() {
    against("punched", ALLOW_ZERO | ANY_ROUND, false, |_, fd, dice| {
        fd.punch_hole(dice.range(0, SIZE / PAGE)).unwrap();
    });
}

/// Whoever empties a file goes by chunks of 512 pages and lets others at it in between.
fn large_hole() {
    const CHUNKS: u64 = 32;
    let hole = PAGE..PAGE + CHUNKS * 2 * MIB;
    let fd = movable(hole.end);
    let pages = || fd.stat().unwrap().pages;
    // Moves that began and ended while a part of the hole was there.
    let moves_meanwhile = || {
        fd.allocate(0..hole.end).unwrap();
        let empty = AtomicBool::new(false);
        let moves = thread::scope(|s| {
            let mover = s.spawn(|| {
                let mut moves = 0;
                while !empty.load(Ordering::Relaxed) {
                    let begun = pages() < hole.end / PAGE;
                    fd.move_pages(0..PAGE, None).unwrap();
                    moves += u64::from(begun && pages() > 1);
                }
                moves
            });
            fd.punch_hole(hole.clone()).unwrap();
            empty.store(true, Ordering::Relaxed);
            mover.join().unwrap()
        });
        assert_eq!(pages(), 1);
        moves
    };
    // Where others wait for the whole hole there is never one, but also if the mover does not run.
    let mut between = 0;
    wait_for(PATIENCE, || {
        between = moves_meanwhile();
        between > 0
    });
    note(format!("{between} moves between {CHUNKS} chunks"));
    assert!(between > 0, "others wait for the whole hole");
}

fn fallocate() {
    against(
        "punched and allocated",
        ALLOW_ZERO | ANY_ROUND,
        false,
        |_, fd, dice| {
            let range = dice.range(0, SIZE / PAGE);
            fd.punch_hole(range.clone()).unwrap();
            fd.allocate(range).unwrap();
        },
    );
}

fn conversion() {
    // Shared memory is zero at first and keeps what was written while it was
    // shared: the round may be any, the place must be right. A fault that meets
    // a conversion half-way is a memory fault with EFAULT.
    against(
        "converted",
        ALLOW_ZERO | ANY_ROUND,
        true,
        |guest, _, dice| {
            let range = dice.range(0, SIZE / PAGE);
            let at = BASE + range.start..BASE + range.end;
            guest.vm.set_shared(at.clone()).unwrap();
            guest.vm.set_private(at).unwrap();
        },
    );
}

fn memslots() {
    against("deleted and bound", 0, true, |guest, fd, _| {
        guest.vm.unbind(1).unwrap();
        guest.vm.bind(1, guest.memory(), fd.as_fd(), 0).unwrap();
        thread::sleep(Duration::from_millis(5));
    });
}

fn prefault() {
    let fd = movable(SIZE);
    let mut guest = Guest::new(&fd, 2);
    guest.fill();
    let third = guest.vm.vcpu(2).unwrap();
    let crew = guest.run();
    let mover = Mover::start(&fd);
    let count = repeat(TIME, |dice| {
        let range = dice.range(0, SIZE / PAGE);
        third
            .prefault(BASE + range.start..BASE + range.end)
            .unwrap();
    });
    let moved = mover.end();
    guest.end(crew);
    guest.verify();
    report("prefaulted", count, moved);
}

/// A move anywhere in a VM has KVM begin anew with every fault that is under way in it, and
/// pre-faulting does not back off. The pages that are pre-faulted here never move, so nothing
/// else is in the way.
fn prefault_elsewhere() {
    let fd = movable(SIZE);
    let guest = Guest::new(&fd, 1);
    fd.allocate(0..SIZE).unwrap();
    let (moving, faulted) = (0..SIZE / 2, SIZE / 2..SIZE);
    let vcpu = &guest.vcpus[0];
    // Pages a second, and the longest that one took.
    let measure = || {
        let (mut pages, mut slowest) = (0, Duration::ZERO);
        let begin = Instant::now();
        while begin.elapsed() < TIME / 3 {
            fd.punch_hole(faulted.clone()).unwrap();
            fd.allocate(faulted.clone()).unwrap();
            for at in faulted.clone().step_by(PAGE as usize) {
                let start = Instant::now();
                vcpu.prefault(BASE + at..BASE + at + PAGE).unwrap();
                slowest = slowest.max(start.elapsed());
                pages += 1;
            }
        }
        (pages as f64 / begin.elapsed().as_secs_f64(), slowest)
    };
    let (alone, slowest) = measure();
    note(format!("{alone:.0} pages/s alone, the slowest {slowest:?}"));
    // As many at a time as the kernel takes, and as mm moves them.
    for at_a_time in [moving.end, PAGE] {
        let stop = AtomicBool::new(false);
        let mover = || {
            let parts = moving.clone().step_by(at_a_time as usize).cycle();
            parts
                .take_while(|_| !stop.load(Ordering::Relaxed))
                .map(|at| fd.move_pages(at..at + at_a_time, None).unwrap().moved)
                .sum::<u64>()
        };
        let ((raced, slowest), moved) = thread::scope(|s| {
            let movers = [s.spawn(mover), s.spawn(mover)];
            let raced = measure();
            stop.store(true, Ordering::Relaxed);
            (raced, movers.map(|m| m.join().unwrap()).iter().sum::<u64>())
        });
        note(format!(
            "{raced:.0} pages/s beside {moved} moves, {} at a time, the slowest {slowest:?}",
            at_a_time / PAGE
        ));
        assert!(moved > 0, "nothing raced");
        // Three threads on two CPUs get a third each, and locks cost more than that.
        assert!(raced * 100.0 > alone, "pre-fault starves");
        assert!(slowest < Duration::from_secs(10), "pre-fault starves");
    }
}

fn vm_destruction() {
    let fd = movable(2 * MIB);
    let mover = Mover::start(&fd);
    let count = repeat(TIME, |_| {
        // Every guest has its own seed: what the last one left is foreign.
        fd.punch_hole(0..2 * MIB).unwrap();
        let mut guest = Guest::new(&fd, 2);
        guest.job.flags |= ANY_ROUND | ALLOW_ZERO;
        let crew = guest.run();
        wait_for(PATIENCE, || crew.progress().written > 0);
        guest.end(crew);
        drop(guest);
    });
    // On a slow machine it may not have had its turn yet; the pages are there.
    wait_for(PATIENCE, || mover.moved() > 0);
    report("made and destroyed a VM", count, mover.end());
}

/// Compaction moves pages of a file which only what `keep` makes of it has still; then that goes, by
/// `close`. Nobody but mm knows the pages.
fn compacted_at_the_end<T>(mut keep: impl FnMut(PrivMemFd) -> T, mut close: impl FnMut(T)) {
    let _allowed = CompactUnevictable::allowed(true);
    let _lists = ShortFreeLists::new().unwrap();
    let _compactor = Compactor::start();
    let mut dice = Dice::new();
    let (mut closes, mut moved) = (0, 0);
    let end = Instant::now() + PATIENCE;
    while closes < 3 && Instant::now() < end {
        let kept = keep(for_compaction(SIZE));
        let before = pages_relocated();
        if !wait_for(Duration::from_secs(10), || pages_relocated() > before) {
            continue;
        }
        thread::sleep(Duration::from_micros(dice.below(500)));
        close(kept);
        moved += pages_relocated() - before;
        closes += 1;
    }
    note(format!("{closes} closed, {moved} pages compacted"));
    assert!(closes > 0, "compaction moved nothing");
}

/// First the last descriptor goes, then the memslot, which is all that has kept the file since.
fn file_close() {
    let mut moved = 0;
    let in_a_memslot = |fd: PrivMemFd| {
        let mut guest = Guest::new(&fd, 1);
        guest.fill();
        let crew = guest.run();
        let mover = Mover::start(&fd);
        wait_for(PATIENCE, || mover.moved() > 0);
        moved += mover.end();
        guest.end(crew);
        punch_every_other_page(&fd);
        guest
    };
    compacted_at_the_end(in_a_memslot, |mut guest| {
        guest.verify_allowing(ALLOW_ZERO | ANY_ROUND);
        guest.vm.unbind(1).unwrap();
    });
    assert!(moved > 0, "nothing moved on request");
}

fn last_close() {
    let filled = |fd: PrivMemFd| {
        fd.allocate(0..SIZE).unwrap();
        punch_every_other_page(&fd);
        fd
    };
    compacted_at_the_end(filled, drop);
}

fn two_vms() {
    let fd = movable(SIZE);
    let seed = seed();
    let half = SIZE / 2;
    let guests: Vec<_> = (0..2u64)
        .map(|i| {
            // The halves lie crosswise, so that addresses differ.
            let vm = vm(VmType::SwProtected);
            let base = BASE + i * 64 * MIB;
            bind_or_skip(&vm, base..base + SIZE, fd.as_fd());
            let vcpu = vm.vcpu(0).unwrap();
            let mut job = Job::new(base + i * half..base + (i + 1) * half, WRITE | VERIFY);
            job.bias = base;
            job.seed = seed;
            (vm, vcpu, job)
        })
        .collect();
    let mut crews = Vec::new();
    let mut vms = Vec::new();
    for (vm, vcpu, job) in guests {
        crews.push(Crew::start(&vm, vec![vcpu], &job).unwrap());
        vms.push((vm, job));
    }
    let mover = Mover::start(&fd);
    thread::sleep(TIME);
    let moved = mover.end();
    let mut rounds = 0;
    let mut vcpus = Vec::new();
    for crew in crews {
        let (mut idle, progress) = ended(crew.stop());
        assert_eq!(progress.mismatches, 0, "{progress:x?}");
        rounds += progress.rounds;
        vcpus.push(idle.pop().unwrap());
    }
    // Each looks at what the other wrote, of whatever round that was.
    let newest = vcpus
        .iter()
        .map(|v| v.control().get(vmm::guest::Field::Started))
        .max();
    for ((vm, job), vcpu) in vms.iter().zip(vcpus) {
        vcpu.control()
            .set(vmm::guest::Field::Started, newest.unwrap());
        let all = Job {
            memory: job.bias..job.bias + SIZE,
            flags: ANY_ROUND,
            ..job.clone()
        };
        let (_, progress) = ended(Crew::verify_once(vm, vec![vcpu], &all, PATIENCE));
        assert_eq!(progress.mismatches, 0, "the other VM's part: {progress:x?}");
    }
    report("verified by two VMs", rounds, moved);
}

fn memcg_limit() {
    let group = Cgroup::new("race", 20 * MIB);
    let before = pages_relocated();
    // Not for a fixed time: each kill fills the kernel's log.
    for _ in 0..12 {
        let mut task = child("limit", &[]);
        group.add(task.id());
        let mut status = None;
        let ended = wait_for(Duration::from_secs(20), || {
            status = task.try_wait().unwrap();
            status.is_some()
        });
        if !ended {
            task.kill().unwrap();
        }
        assert!(ended, "hangs at the cgroup's limit");
        let at_limit = status.is_some_and(|s| s.success() || s.signal() == Some(libc::SIGKILL));
        assert!(at_limit, "ended with {status:?}");
    }
    let moved = pages_relocated() - before;
    note(format!("{moved} pages moved at the limit"));
    assert!(moved > 0, "nothing raced");
    let gone = wait_for(Duration::from_secs(10), || group.current() < 4 * MIB);
    assert!(gone, "{} bytes are still charged", group.current());
}

fn sigkill() {
    let mut dice = Dice::new();
    let mut kills = 0;
    let before = pages_relocated();
    repeat(TIME, |_| {
        let begin = pages_relocated();
        let mut task = child("victim", &[]);
        // On a slow machine it takes a while until its pages move.
        let moves = wait_for(PATIENCE, || pages_relocated() > begin);
        assert!(moves, "the victim moves nothing");
        thread::sleep(Duration::from_millis(dice.below(300)));
        signal(&task, Signal::KILL);
        let gone = wait_for(Duration::from_secs(20), || {
            task.try_wait().unwrap().is_some()
        });
        assert!(gone, "a killed process stays");
        kills += 1;
    });
    let moved = pages_relocated() - before;
    note(format!(
        "{kills} processes killed while their guest ran and {moved} of its pages moved"
    ));
    assert!(kills > 0 && moved > 0, "nothing raced");
}

fn offline() {
    let (fd, node, _fillers) = offlinable_for_long(SIZE);
    let mut times = 0;
    let end = Instant::now() + PATIENCE;
    let step = |_: &Guest, fd: &PrivMemFd, _: &mut Dice| loop {
        times += offline_and_back(fd, SIZE);
        if times > 0 || Instant::now() > end {
            break;
        }
    };
    against_on(fd, node, "tried to take blocks offline", 0, false, step);
    note(format!("{times} blocks offline and online again"));
    assert!(times > 0, "no block went offline");
}

fn everything_at_once() {
    against(
        "did something",
        ALLOW_ZERO | ANY_ROUND,
        true,
        |guest, fd, dice| {
            let range = dice.range(0, SIZE / PAGE);
            let at = BASE + range.start..BASE + range.end;
            match dice.below(6) {
                0 => fd.punch_hole(range).unwrap(),
                1 => fd.allocate(range).unwrap(),
                2 => guest.vm.set_shared(at).unwrap(),
                3 => guest.vm.set_private(at).unwrap(),
                4 => drop(fd.stat().unwrap()),
                _ => {
                    // Shared memory without a memslot would be a device's.
                    guest.vm.set_private(guest.memory()).unwrap();
                    guest.vm.unbind(1).unwrap();
                    guest.vm.bind(1, guest.memory(), fd.as_fd(), 0).unwrap();
                }
            }
        },
    );
}

/// Fills a file until the cgroup says no, moving what is there.
fn limit_role() -> ExitCode {
    let mine = || std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    wait_for(Duration::from_secs(10), || mine().contains("privmemfd"));
    let fd = movable(32 * MIB);
    let _mover = Mover::start(&fd);
    for offset in (0..32 * MIB).step_by(PAGE as usize) {
        if fd.allocate(offset..offset + PAGE).is_err() {
            return ExitCode::SUCCESS;
        }
    }
    ExitCode::FAILURE
}

/// Runs a guest whose pages move, until it is killed.
fn victim_role() -> ExitCode {
    let fd = movable(4 * MIB);
    let mut guest = Guest::new(&fd, 2);
    let _crew = guest.run();
    let _mover = Mover::start(&fd);
    loop {
        let _ = fd.punch_hole(0..MIB);
        let _ = fd.allocate(0..4 * MIB);
    }
}

fn main() -> ExitCode {
    match role().map(|(name, _)| name).as_deref() {
        Some("limit") => return limit_role(),
        Some("victim") => return victim_role(),
        _ => {}
    }
    ktap::main(cases![
        "relocation against vCPU faults" => vcpu_faults,
        "relocation against punch hole" => punch_hole,
        "a large hole lets moves in between its chunks" => large_hole,
        "relocation against fallocate" => fallocate,
        "relocation against conversion" => conversion,
        "relocation against memslot delete and create" => memslots,
        "relocation against pre-fault" => prefault,
        "pre-fault of pages that stay makes progress beside moves without pause" => prefault_elsewhere,
        "relocation against VM destruction" => vm_destruction,
        "relocation against closing the file" => file_close,
        "compaction against the last close" => last_close,
        "relocation with two VMs on one file" => two_vms,
        "relocation against a memory cgroup's limit" => memcg_limit,
        "relocation against SIGKILL" => sigkill,
        "relocation on request against offlining" => offline,
        "relocation against everything at once" => everything_at_once,
    ])
}
