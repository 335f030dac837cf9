// SPDX-License-Identifier: GPL-2.0
//! Memory that fails, or is about to, below a guest. A memory block with a page
//! that has failed does not come back online: run this last.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use privmemctl::memory::{Block, MemoryMap};
use privmemfd_ioctls::PrivMemFd;
use selftests::cases;
use selftests::effects::{affects_machine, Effect};
use selftests::fixtures::{
    done, fails, in_movable_zone, movable, wait_for, Guest, MIB, PAGE, PATIENCE,
};
use selftests::hostmem::{counter, heal, mark_failed, offline, unpoison, Failing};
use selftests::ktap;
use selftests::starve::{FailingCopies, Starved};
use vmm::layout::PRIVATE_BASE as BASE;
use vmm::Exit;

/// Guest address at which a vCPU has met memory that is lost.
#[track_caller]
fn lost(exit: Exit) -> u64 {
    match exit {
        Exit::MemoryFault {
            gpa,
            private: true,
            errno: libc::EHWPOISON,
            ..
        } => gpa,
        other => panic!("access to failed memory: {other:?}"),
    }
}

fn failing_memory_reaches_the_vmm() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let bad = fd.pages(5 * PAGE..6 * PAGE).unwrap()[0].unwrap();
    offline("hard", bad).unwrap();
    for _ in 0..2 {
        assert_eq!(lost(guest.read(BASE + 5 * PAGE)), BASE + 5 * PAGE);
    }
    let s = fd.stat().unwrap();
    assert_eq!(s.poisoned, 1);
    fails(fd.allocate(0..MIB), libc::EHWPOISON, "fallocate");
    // The others are as before, and can move.
    assert_ne!(done(guest.read(BASE + 4 * PAGE)), 0);
    assert_eq!(fd.move_range(0..MIB, None).unwrap(), MIB / PAGE - 1);
    assert_ne!(done(guest.read(BASE + 6 * PAGE)), 0);
    // Punching the hole gives a good page.
    fd.punch_hole(5 * PAGE..6 * PAGE).unwrap();
    assert_eq!(done(guest.read(BASE + 5 * PAGE)), 0);
    assert_eq!(fd.stat().unwrap().poisoned, 0);
    unpoison(bad).unwrap();
}

fn soft_offline_moves_the_page() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    for page in [0, 7, 255] {
        let range = page * PAGE..(page + 1) * PAGE;
        let old = fd.pages(range.clone()).unwrap()[0].unwrap();
        offline("soft", old).unwrap();
        let new = fd.pages(range).unwrap()[0].unwrap();
        assert_ne!(old, new);
        unpoison(old).unwrap();
    }
    guest.verify();
    let s = fd.stat().unwrap();
    assert_eq!((s.poisoned, s.pages, s.relocated), (0, MIB / PAGE, 3));
}

/// Nothing that takes note of a failure may need memory, or wait for who has the
/// file to themselves: here somebody always has.
fn failing_needs_no_memory_and_no_lock() {
    const BUSY: std::ops::Range<u64> = MIB..16 * MIB;
    let mut failing = Failing::ready();
    let fd = movable(BUSY.end);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let frames: Vec<u64> = fd
        .pages(0..32 * PAGE)
        .unwrap()
        .into_iter()
        .flatten()
        .collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fd.punch_hole(BUSY).unwrap();
                fd.allocate(BUSY).unwrap();
            }
        });
        // The last also when the case fails.
        let _stop = StopOnDrop(&stop);
        for (page, pfn) in frames.iter().enumerate() {
            let result = {
                let _starved = Starved::of_objects();
                failing.frame(*pfn)
            };
            result.unwrap();
            let gpa = guest.page(page as u64);
            assert_eq!(lost(guest.read(gpa)), gpa);
        }
    });
    assert_eq!(fd.stat().unwrap().poisoned, 32);
    fd.punch_hole(0..32 * PAGE).unwrap();
    assert_eq!(fd.stat().unwrap().poisoned, 0);
    for pfn in frames {
        unpoison(pfn).unwrap();
    }
}

/// Stops who looks at it.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What `unpoison` is told about has left its file: it is used again, also while the
/// file remembers.
fn unpoisoned_memory_is_used_again() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let pfn = fd.pages(0..PAGE).unwrap()[0].unwrap();
    offline("hard", pfn).unwrap();
    unpoison(pfn).unwrap();
    assert_eq!(lost(guest.read(guest.page(0))), guest.page(0));
    offline("hard", pfn).unwrap();
    unpoison(pfn).unwrap();
    fd.punch_hole(0..PAGE).unwrap();
    assert_eq!(done(guest.read(guest.page(0))), 0);
}

/// A file over several blocks of movable memory, of which not every one can go
/// offline; four of its pages in each, which the guest has written.
struct Spread {
    fd: PrivMemFd,
    guest: Guest,
    blocks: Vec<(Block, [u64; 4])>,
}

impl Spread {
    const SIZE: u64 = 300 * MIB;

    fn new() -> Self {
        let fd = in_movable_zone(Self::SIZE);
        fd.allocate(0..Self::SIZE).unwrap();
        let mut guest = Guest::new(&fd, 1);
        let map = MemoryMap::read().unwrap();
        let mut pages: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (page, frame) in fd.pages(0..Self::SIZE).unwrap().iter().enumerate() {
            let block = map.block_of(frame.unwrap());
            pages.entry(block).or_default().push(page as u64);
        }
        let blocks: Vec<_> = pages
            .into_iter()
            .map(|(block, pages)| (map.block(block), pages))
            .filter_map(|(block, pages)| Some((block, *pages.first_chunk::<4>()?)))
            .filter(|(block, _)| block.is_movable())
            .collect();
        for page in blocks.iter().flat_map(|(_, pages)| pages) {
            guest.write(guest.page(*page), Self::value(*page));
        }
        Self { fd, guest, blocks }
    }

    fn value(page: u64) -> u64 {
        page << 8 | 0x5a
    }

    fn frame(&self, page: u64) -> Option<u64> {
        let at = page * PAGE;
        self.fd.pages(at..at + PAGE).unwrap()[0]
    }

    /// Takes the first block offline that can go, and tells which.
    fn offline(&self) -> (Block, [u64; 4]) {
        affects_machine(Effect::Offline);
        let gone = |block: &Block| match block.set_state("offline") {
            Ok(()) => true,
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => false,
            Err(e) => panic!("{block:?}: {e}"),
        };
        let found = self.blocks.iter().find(|(block, _)| gone(block));
        found.expect("no block goes offline").clone()
    }

    fn is_lost(&mut self, page: u64) {
        let gpa = self.guest.page(page);
        assert_eq!(lost(self.guest.read(gpa)), gpa);
        assert_eq!(self.frame(page), None);
    }

    fn is_kept(&mut self, page: u64) {
        let gpa = self.guest.page(page);
        assert_eq!(done(self.guest.read(gpa)), Self::value(page));
    }

    fn heals(&mut self, page: u64) {
        let at = page * PAGE;
        self.fd.punch_hole(at..at + PAGE).unwrap();
        assert_eq!(done(self.guest.read(self.guest.page(page))), 0);
    }
}

/// memory_failure() leaves a page in its file that it meets off the LRU lists.
fn marked_pages_leave_with_their_block() {
    let mut spread = Spread::new();
    for (_, [page, ..]) in &spread.blocks {
        mark_failed(spread.frame(*page).unwrap());
    }
    assert_eq!(spread.fd.stat().unwrap().poisoned, 0);
    let (block, [marked, good, ..]) = spread.offline();
    assert_eq!(spread.fd.stat().unwrap().poisoned, 1);
    spread.is_lost(marked);
    // mm has not counted the page that this test has marked, and takes the block back.
    block.set_state("online_movable").unwrap();
    spread.is_lost(marked);
    spread.is_kept(good);
    spread.heals(marked);
    assert_eq!(spread.fd.stat().unwrap().poisoned, 0);
}

/// A request cannot read a page: mm is told, and takes it out of the file, which nobody else asks for.
fn unreadable_pages_are_told_of() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let before = fd.pages(0..MIB).unwrap();
    let copies = FailingCopies::next(1);
    let moved = fd.move_range(0..MIB, None);
    drop(copies);
    assert_eq!(moved.map_err(|e| e.errno()), Err(libc::EHWPOISON));
    heal(&fd, &mut guest, &before, 1);
}

/// Pages that mm wants to move, and whose copy fails, leave the file as well.
fn failing_copies_are_failed_pages() {
    const FAIL: u64 = 3;
    let mut spread = Spread::new();
    let before = spread.fd.pages(0..Spread::SIZE).unwrap();
    let poisoned = counter("pages_poisoned");
    let copies = FailingCopies::next(FAIL);
    let (block, _) = spread.offline();
    assert_eq!(copies.left(), 0);
    let gone = || spread.fd.stat().unwrap().pages == Spread::SIZE / PAGE - FAIL;
    assert!(wait_for(PATIENCE, gone), "{:?}", spread.fd.stat());
    assert_eq!(spread.fd.stat().unwrap().poisoned, FAIL);
    assert_eq!(counter("pages_poisoned") - poisoned, FAIL);
    let frames = spread.fd.pages(0..Spread::SIZE).unwrap();
    let gone: Vec<usize> = (0..frames.len()).filter(|n| frames[*n].is_none()).collect();
    for page in &gone {
        spread.is_lost(*page as u64);
        spread.heals(*page as u64);
    }
    assert_eq!(spread.fd.stat().unwrap().poisoned, 0);
    // Another block may have been tried first. Whether mm has counted them or not:
    let map = MemoryMap::read().unwrap();
    let in_block = |page: &usize| map.block_of(before[*page].unwrap()) == block.index;
    let back = block.set_state("online_movable");
    if gone.iter().any(in_block) {
        fails(back, libc::EHWPOISON, "online");
    } else {
        back.unwrap();
    }
}

/// A block whose pages have failed goes offline, for mm passes such pages over. By
/// then they have left the file: what is done to it touches nothing of the block.
fn failed_pages_are_gone_before_their_block() {
    let mut spread = Spread::new();
    for (_, [pages @ .., _]) in &spread.blocks {
        for page in pages {
            offline("hard", spread.frame(*page).unwrap()).unwrap();
            assert_eq!(spread.frame(*page), None);
        }
    }
    let poisoned = 3 * spread.blocks.len() as u64;
    assert_eq!(spread.fd.stat().unwrap().poisoned, poisoned);

    let (block, [first, second, third, good]) = spread.offline();
    spread.is_lost(first);
    spread.is_kept(good);
    let moved = spread.fd.move_range(0..Spread::SIZE, None);
    assert_eq!(moved.unwrap(), Spread::SIZE / PAGE - poisoned);
    spread.heals(first);
    // Another failure, at the same place of the file.
    offline("hard", spread.frame(first).unwrap()).unwrap();
    spread.is_lost(first);
    // The kernel takes no block back in which pages have failed.
    let back = block.set_state("online_movable");
    fails(back, libc::EHWPOISON, "online");
    spread.is_lost(second);
    spread.is_kept(good);
    spread.heals(third);
    spread.fd.punch_hole(0..Spread::SIZE).unwrap();
    let s = spread.fd.stat().unwrap();
    assert_eq!((s.poisoned, s.pages), (0, 0));
    spread.heals(second);
}

fn main() -> ExitCode {
    ktap::main(cases![
        "failing memory reaches the VMM as EHWPOISON" => failing_memory_reaches_the_vmm,
        "soft offline moves the page and keeps its content" => soft_offline_moves_the_page,
        "failing needs no memory and no lock" => failing_needs_no_memory_and_no_lock,
        "unpoisoned memory is used again" => unpoisoned_memory_is_used_again,
        "marked pages leave with their block" => marked_pages_leave_with_their_block,
        "a page that a request cannot read leaves by itself" => unreadable_pages_are_told_of,
        "copies that fail are failed pages" => failing_copies_are_failed_pages,
        "failed pages are gone before their block" => failed_pages_are_gone_before_their_block,
    ])
}
