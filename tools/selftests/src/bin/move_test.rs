// SPDX-License-Identifier: GPL-2.0
//! `PRIVMEMFD_MOVE` that tells how each page has ended: also when pages, memory, the array or
//! the time run out on the way.

use std::fs;
use std::os::fd::AsFd;
use std::process::ExitCode;

use privmemctl::memory::MemoryMap;
use privmemfd_ioctls::uapi::{privmemfd_move, PRIVMEMFD_MOVE_STATUS, PRIVMEMFD_NODE_ANY};
use privmemfd_ioctls::{sys, Mobility, Moves, Obstacle, Options, PageStatus, PrivMemFd, Refusal};
use selftests::cases;
use selftests::effects::{affects_machine, Effect};
use selftests::fixtures::{
    child, device, fails, movable, return_from, role, two_nodes, wait_for, Guest, MIB, PAGE,
    PATIENCE,
};
use selftests::hostmem::heal;
use selftests::ktap::{self, note, skip};
use selftests::starve::{FailingCopies, Starved};

fn full(size: u64) -> PrivMemFd {
    let fd = movable(size);
    fd.allocate(0..size).unwrap();
    fd
}

/// Some thousand pages, every third of them a hole, and an array that is longer than the part
/// of them that is asked for.
fn move_tells_the_status_of_each_page() {
    const PAGES: u64 = 2500;
    const FIRST: u64 = 7;
    let fd = movable(PAGES * PAGE);
    fd.allocate(0..PAGES * PAGE).unwrap();
    let is_hole = |page: u64| page % 3 == 0;
    for page in (0..PAGES).filter(|p| is_hole(*p)) {
        fd.punch_hole(page * PAGE..(page + 1) * PAGE).unwrap();
    }
    let before = fd.pages(0..PAGES * PAGE).unwrap();
    let mut statuses = vec![-7; PAGES as usize];
    let mut arg = privmemfd_move {
        offset: FIRST * PAGE,
        len: (PAGES - 2 * FIRST) * PAGE,
        moved: 77,
        node: PRIVMEMFD_NODE_ANY,
        ..Default::default()
    };
    sys::move_statuses(fd.as_fd(), &mut arg, &mut statuses).unwrap();
    let after = fd.pages(0..PAGES * PAGE).unwrap();
    let asked = FIRST..PAGES - FIRST;
    let mut moved = 0;
    for page in 0..PAGES {
        let (i, place) = (page as usize, (before[page as usize], after[page as usize]));
        assert_eq!(
            place.0 != place.1,
            asked.contains(&page) && !is_hole(page),
            "page {page}"
        );
        moved += u64::from(place.0 != place.1);
        let Some(status) = statuses.get(i) else {
            continue;
        };
        match page + FIRST {
            _ if page >= PAGES - 2 * FIRST => assert_eq!(*status, -7, "entry {page}, behind it"),
            page if is_hole(page) => assert_eq!(*status, -libc::ENOENT, "page {page}"),
            page => assert!(*status >= 0, "page {page}: {status}"),
        }
    }
    assert_eq!(arg.moved, moved);
}

/// Also of pages that are there already.
fn statuses_are_nodes() {
    let fd = movable(MIB);
    fd.allocate(0..MIB).unwrap();
    let nodes = privmemctl::memory::MemoryMap::read().unwrap().nodes();
    for node in nodes {
        for moved in [None, Some(0)] {
            let moves = fd.move_pages(0..MIB, Some(node)).unwrap();
            assert!(moved.is_none_or(|n| n == moves.moved), "{}", moves.moved);
            let all = vec![PageStatus::On(node); (MIB / PAGE) as usize];
            assert_eq!(moves.pages, all);
            assert_eq!(fd.stat_node(node).unwrap().pages, MIB / PAGE);
        }
    }
    let empty = fd.move_pages(MIB / 2..MIB / 2, None).unwrap();
    assert_eq!((empty.moved, empty.pages.len()), (0, 0));
}

/// The same with statuses: they tell the three, and everything else has moved.
fn moves_go_on_past_failing_copies() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let before = fd.pages(0..MIB).unwrap();
    let failing = FailingCopies::next(3);
    let moves = fd.move_pages(0..MIB, None).unwrap();
    assert_eq!(failing.left(), 0);
    assert_eq!(moves.moved, MIB / PAGE - 3);
    assert_eq!(fd.stat().unwrap().refused_for(Refusal::Poison), 3);
    let poisoned = |moves: &Moves| -> Vec<usize> {
        let stuck = |page: &usize| moves.pages[*page] == PageStatus::Stuck(Obstacle::Poison);
        (0..moves.pages.len()).filter(stuck).collect()
    };
    let told = poisoned(&moves);
    // They are no holes, also when they have left the file.
    assert!(wait_for(PATIENCE, || {
        fd.stat().unwrap().pages == MIB / PAGE - 3
    }));
    assert_eq!(poisoned(&fd.move_pages(0..MIB, None).unwrap()), told);
    assert_eq!(heal(&fd, &mut guest, &before, 3), told);
    guest.fill();
    guest.verify();
}

/// Each page is told and counted, and where it has moved says so. A part of the allocations
/// succeeds: the kernel has to have some for its own use, and the request goes on.
fn moves_short_of_memory_tell_each_page() {
    let fd = full(MIB);
    let mut refused = 0;
    for _ in 0..100 {
        let before = fd.pages(0..MIB).unwrap();
        let result = {
            let _starved = Starved::of_some_pages(20);
            fd.move_pages(0..MIB, None)
        };
        let (moved, pages) = match result {
            Ok(moves) => (moves.moved, moves.pages),
            // None for the kernel's own use: then some pages were not come to.
            Err(e) => {
                assert_eq!(e.errno(), libc::ENOMEM, "{e}");
                assert!(e.pages.contains(&PageStatus::Untold), "{e}");
                (e.moved, e.pages)
            }
        };
        let after = fd.pages(0..MIB).unwrap();
        for (page, status) in pages.iter().enumerate() {
            let went = before[page] != after[page];
            match status {
                PageStatus::On(_) => assert!(went, "page {page} is where it was"),
                PageStatus::Untold => assert!(!went, "page {page} moved"),
                PageStatus::Stuck(Obstacle::NoMemory) => {
                    assert!(!went, "page {page} moved");
                    refused += 1;
                }
                other => panic!("page {page}: {other:?}"),
            }
        }
        let on = |p: &&PageStatus| matches!(p, PageStatus::On(_));
        assert_eq!(moved, pages.iter().filter(on).count() as u64);
        assert_eq!(fd.stat().unwrap().refused_for(Refusal::NoMem), refused);
        if refused > 0 && moved > 0 {
            break;
        }
    }
    note(format!("{refused} pages were refused"));
    assert!(refused > 0, "no page was refused");
    assert_eq!(fd.move_range(0..MIB, None).unwrap(), MIB / PAGE);
}

/// The pages of a node, but for what the allocator keeps back, until it is dropped: huge pages, and the
/// rest of them in a file.
struct Occupied {
    huge_pages: String,
    before: String,
    rest: PrivMemFd,
}

impl Occupied {
    const REST: u64 = 1024 * MIB;

    fn new(node: u32) -> Self {
        let huge_pages =
            format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages");
        let Ok(before) = fs::read_to_string(&huge_pages) else {
            skip("no huge pages of 2 MiB, which fill a node in no time");
        };
        let options = Options::new(Mobility::Movable).node(node);
        let full = Self {
            huge_pages,
            before,
            rest: device().create(Self::REST, options).unwrap(),
        };
        // As many as there are.
        fs::write(&full.huge_pages, (1 << 20).to_string()).unwrap();
        full.fill(node);
        full
    }

    fn fill(&self, node: u32) {
        const STEP: u64 = 2 * MIB;
        for at in (0..Self::REST).step_by(STEP as usize) {
            self.rest.allocate(at..at + STEP).unwrap();
            if self.rest.stat_node(node).unwrap().pages < (at + STEP) / PAGE {
                return;
            }
        }
        panic!("node {node} does not fill up");
    }

    /// Frees so many pages, of those that have come first.
    fn free(&self, pages: u64) {
        self.rest.punch_hole(0..pages * PAGE).unwrap();
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        let _ = fs::write(&self.huge_pages, &self.before);
    }
}

/// What the module was loaded with: whoever gives it another number than its own says so, as the
/// kernel shows no parameter of a module in Rust.
fn pages_in_a_batch() -> usize {
    std::env::var("PRIVMEMFD_BATCH").map_or(32, |batch| batch.parse().expect("a number"))
}

/// The allocator has fewer pages than a batch asks for: as many move as there are, each of the others
/// stays and is told, and the guest keeps every byte.
fn a_node_takes_what_it_has_room_for() {
    const SIZE: u64 = 32 * MIB;
    /// Pages whose statuses the module writes at once.
    const WINDOW: usize = 512;
    affects_machine(Effect::Limits);
    let batch = pages_in_a_batch();
    let (from, to) = two_nodes();
    let fd = movable(SIZE);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    fd.move_range(0..SIZE, Some(from)).unwrap();
    let full = Occupied::new(to);
    // Where it ends in a batch is chance. Pages that become free stay on a list of the CPU that has
    // freed them, up to some thousands, where they are not counted as free: with nothing to reclaim,
    // nobody gets one before they are more.
    let in_a_batch = (1..=50).any(|round| {
        full.free(200 * round);
        let before = fd.pages(0..SIZE).unwrap();
        let refused = fd.stat().unwrap().refused_for(Refusal::NoMem);
        let moves = fd.move_pages(0..SIZE, Some(to)).unwrap();
        let after = fd.pages(0..SIZE).unwrap();
        for (page, status) in moves.pages.iter().enumerate() {
            let went = before[page] != after[page];
            match status {
                PageStatus::On(node) => assert!(went && *node == to, "page {page}"),
                PageStatus::Stuck(Obstacle::NoMemory) => assert!(!went, "page {page} moved"),
                other => panic!("page {page}: {other:?}"),
            }
        }
        let moved: Vec<_> = moves
            .pages
            .iter()
            .map(|status| matches!(status, PageStatus::On(_)))
            .collect();
        let count = moved.iter().filter(|moved| **moved).count() as u64;
        assert_eq!(moves.moved, count);
        assert_eq!(
            fd.stat().unwrap().refused_for(Refusal::NoMem) - refused,
            SIZE / PAGE - count
        );
        note(format!("{count} pages of {} had room", SIZE / PAGE));
        fd.move_range(0..SIZE, Some(from)).unwrap();
        if count == SIZE / PAGE {
            full.fill(to);
        }
        if batch == 1 {
            return (1..SIZE / PAGE).contains(&count);
        }
        // A request with statuses takes up windows, and each anew batches.
        moved
            .chunks(WINDOW)
            .flat_map(|window| window.chunks(batch))
            .any(|pages| pages.contains(&true) && pages.contains(&false))
    });
    assert!(
        in_a_batch,
        "no batch of {batch} got less than it has asked for"
    );
    drop(full);
    guest.verify();
}

/// An array that ends too early, or is nowhere: what was moved stays moved and is counted, and
/// the guest keeps every byte.
fn statuses_nobody_can_write_give_efault() {
    const PAGES: u64 = 4 * MIB / PAGE;
    let fd = movable(PAGES * PAGE);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    // SAFETY: a new mapping in a place of the kernel's choice; nothing refers to its second page.
    let array = unsafe {
        let flags = rustix::mm::MapFlags::PRIVATE;
        let rw = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        let at = rustix::mm::mmap_anonymous(std::ptr::null_mut(), 2 * PAGE as usize, rw, flags);
        let at = at.unwrap().cast::<u8>();
        let second = at.add(PAGE as usize).cast();
        rustix::mm::mprotect(second, PAGE as usize, rustix::mm::MprotectFlags::empty()).unwrap();
        at
    };
    let room = |pages: u64| array as u64 + PAGE - pages * 4;
    for (status, least, most) in [
        (0, 0, 512),
        (u64::MAX - 3, 0, 512),
        (1 << 63, 0, 512),
        (room(1), 0, 512),
        (room(600), 512, 1024),
        (room(1023), 512, 1024),
        (room(1024), 1024, PAGES),
    ] {
        let before = fd.pages(0..PAGES * PAGE).unwrap();
        let mut arg = privmemfd_move {
            len: PAGES * PAGE,
            node: PRIVMEMFD_NODE_ANY,
            flags: PRIVMEMFD_MOVE_STATUS,
            status,
            ..Default::default()
        };
        // SAFETY: nothing but the array is mapped where the kernel writes.
        let result = unsafe { sys::move_at(fd.as_fd(), &mut arg) };
        if status == room(1024) {
            result.unwrap();
        } else {
            fails(result, libc::EFAULT, &format!("an array at {status:#x}"));
        }
        let after = fd.pages(0..PAGES * PAGE).unwrap();
        let went = before.iter().zip(&after).filter(|(a, b)| a != b).count() as u64;
        assert_eq!(arg.moved, went, "an array at {status:#x}");
        assert!(
            (least..=most).contains(&went),
            "{went} moved, array at {status:#x}"
        );
    }
    guest.verify();
    // SAFETY: nothing refers to it.
    unsafe { rustix::mm::munmap(array.cast(), 2 * PAGE as usize).unwrap() };
}

/// Size of what is moved under a timer: that takes many times its period.
const LARGE: u64 = 128 * MIB;
/// Requests that a timer is to interrupt.
const REQUESTS: u8 = 30;

/// How many of its requests were interrupted, says a child in this role; a signal disturbs all
/// of a process.
fn interrupted_in(role: &str) -> u8 {
    let status = child(role, &[]).wait().unwrap();
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    let interrupted = code.filter(|n| *n <= REQUESTS);
    interrupted.unwrap_or_else(|| panic!("{role}: ended with {status:?}"))
}

/// Has SIGALRM come after some microseconds, and again and again, or never if that is 0.
fn set_timer(first: i64, period: i64) {
    let after = |tv_usec| libc::timeval { tv_sec: 0, tv_usec };
    let timer = libc::itimerval {
        it_interval: after(period),
        it_value: after(first),
    };
    // SAFETY: the timer is valid.
    let r = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    assert_eq!(r, 0);
}

/// Where no page has to move there is no batch between which a signal could be noticed.
fn signals_interrupt_moves_of_nothing() {
    let interrupted = interrupted_in("nothing-to-move");
    note(format!(
        "{interrupted} of {REQUESTS} requests were interrupted"
    ));
    // One that is deaf while it walks may still notice a signal at its beginning: one in ten.
    // Not all of the others either, where the whole takes hardly longer than the timer.
    assert!(interrupted > REQUESTS / 3);
}

fn nothing_to_move() -> u8 {
    let fd = full(LARGE);
    let home = MemoryMap::read().unwrap().nodes()[0];
    fd.move_range(0..LARGE, Some(home)).unwrap();
    set_timer(200, 200);
    let interrupted = |_: &u8| match fd.move_range(0..LARGE, Some(home)) {
        Ok(moved) => {
            assert_eq!(moved, 0);
            false
        }
        Err(e) => {
            assert_eq!((e.errno(), e.moved), (libc::EINTR, 0), "{e}");
            true
        }
    };
    (0..REQUESTS).filter(interrupted).count() as u8
}

/// A request that a signal has ended has told of the pages up to some page, moved all of
/// those, and none behind it.
fn signals_leave_what_is_told() {
    let interrupted = interrupted_in("interrupted-half-way");
    note(format!("{interrupted} requests were interrupted half-way"));
    assert!(interrupted > 0);
}

fn interrupted_half_way() -> u8 {
    let fd = full(LARGE);
    let mut interrupted = 0;
    // Early and late, whatever the machine takes for the whole.
    for after in (1..400).map(|step| step * 500) {
        let before = fd.pages(0..LARGE).unwrap();
        set_timer(after, 0);
        let result = fd.move_pages(0..LARGE, None);
        set_timer(0, 0);
        let after = fd.pages(0..LARGE).unwrap();
        let (moved, pages) = match result {
            Ok(moves) => (moves.moved, moves.pages),
            Err(e) => {
                assert_eq!(e.errno(), libc::EINTR, "{e}");
                interrupted += u8::from(e.moved > 0);
                (e.moved, e.pages)
            }
        };
        let told = pages.iter().position(|p| *p == PageStatus::Untold);
        let told = told.unwrap_or(pages.len());
        for (page, status) in pages.iter().enumerate() {
            let went = before[page] != after[page];
            match status {
                PageStatus::On(_) => assert!(page < told && went, "{page}, told {told}"),
                PageStatus::Untold => assert!(page >= told && !went, "{page}, told {told}"),
                other => panic!("page {page}: {other:?}"),
            }
        }
        assert_eq!(moved, told as u64);
        if interrupted == 10 {
            break;
        }
    }
    interrupted
}

fn main() -> ExitCode {
    if let Some((role, _)) = role() {
        return_from(libc::SIGALRM);
        return ExitCode::from(match role.as_str() {
            "nothing-to-move" => nothing_to_move(),
            _ => interrupted_half_way(),
        });
    }
    ktap::main(cases![
        "the status of each page is told, and of no other" => move_tells_the_status_of_each_page,
        "the node is told of pages that moved or were there" => statuses_are_nodes,
        "pages whose memory fails are told, all others move" => moves_go_on_past_failing_copies,
        "short of memory each page that stays is told ENOMEM" => moves_short_of_memory_tell_each_page,
        "a node takes as many pages as it has room for" => a_node_takes_what_it_has_room_for,
        "statuses nobody can write give EFAULT, and nothing is lost" => statuses_nobody_can_write_give_efault,
        "EINTR where no page has to move" => signals_interrupt_moves_of_nothing,
        "EINTR half-way: what has moved is told, and nothing else" => signals_leave_what_is_told,
    ])
}
