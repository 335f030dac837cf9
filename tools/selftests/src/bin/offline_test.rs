// SPDX-License-Identifier: GPL-2.0
//! A memory block goes offline: its pages leave it in batches, and nothing is lost or waited for,
//! whatever comes between.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use privmemctl::memory::{own_frames, Block, MemoryMap};
use privmemctl::node_mask::NodeMask;
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd};
use rustix::mm::{mmap_anonymous, munmap, MapFlags, ProtFlags};
use rustix::pipe::{pipe, vmsplice, IoSliceRaw, SpliceFlags};
use selftests::cases;
use selftests::fixtures::{file, role, two_nodes, wait_for, Guest, MIB, PAGE, PATIENCE};
use selftests::hostmem::{
    can_go_offline, counter, interrupt, movable_blocks, offlinable, offlinable_on, offlining,
    offlining_role,
};
use selftests::ktap::{self, note, skip};

const SIZE: u64 = 16 * MIB;

/// Pages that have left a block before mm asked for them.
fn ahead() -> u64 {
    counter("pages_relocated_ahead")
}

/// The block that has most of a file's pages, of those that can go offline, and how many.
fn fullest(fd: &PrivMemFd) -> Option<(Block, u64)> {
    let size = fd.stat().unwrap().size;
    let mut blocks = movable_blocks(fd, size);
    blocks.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    blocks.into_iter().find(|(block, _)| can_go_offline(block))
}

/// A file, the block that has most of its pages, and how many.
fn file_in_block() -> (PrivMemFd, Block, u64) {
    let fd = offlinable(SIZE);
    let (block, pages) = fullest(&fd).expect("a block that can go offline");
    (fd, block, pages)
}

fn pages_in(block: &Block, fd: &PrivMemFd) -> u64 {
    let size = fd.stat().unwrap().size;
    let census = MemoryMap::read()
        .unwrap()
        .count(&fd.pages(0..size).unwrap());
    census.get(&block.index).copied().unwrap_or(0)
}

fn offline(block: &Block) {
    block
        .set_state("offline")
        .unwrap_or_else(|e| panic!("memory{}: {e}", block.index));
}

fn online(block: &Block) {
    block.set_state("online_movable").unwrap();
}

fn is_online(block: &Block) -> bool {
    MemoryMap::read().unwrap().block(block.index).online
}

/// Pages of this process in a block, which cannot move while they are in a pipe.
struct Stuck {
    at: *mut libc::c_void,
    _pipe: (OwnedFd, OwnedFd),
}

impl Stuck {
    const SIZE: usize = 64 << 20;

    fn in_block(block: &Block) -> Self {
        const MPOL_DEFAULT: libc::c_long = 0;
        const MPOL_BIND: libc::c_long = 2;
        let policy = |mode: libc::c_long, nodes: NodeMask| {
            let (mask, maxnode) = (nodes.as_ptr(), NodeMask::MAXNODE);
            // SAFETY: the kernel reads the mask, and no more.
            let r = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, maxnode) };
            assert_eq!(r, 0, "set_mempolicy: {}", io::Error::last_os_error());
        };
        policy(MPOL_BIND, NodeMask::of(block.node.unwrap_or(0)));
        let stuck = Self::among_new_pages(block.index);
        policy(MPOL_DEFAULT, NodeMask::none());
        stuck
    }

    fn among_new_pages(index: u64) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new mapping in a place of the kernel's choice.
        let at =
            unsafe { mmap_anonymous(std::ptr::null_mut(), Self::SIZE, protection, flags) }.unwrap();
        let map = MemoryMap::read().unwrap();
        let page = own_frames(at as u64, Self::SIZE / PAGE as usize)
            .unwrap()
            .iter()
            .position(|pfn| pfn.is_some_and(|pfn| map.block_of(pfn) == index))
            .unwrap_or_else(|| skip("no other page comes to lie in that block"));
        let pipe = pipe().unwrap();
        // SAFETY: inside the mapping, which stays while the page is in the pipe.
        let slice = unsafe {
            let start = at.cast::<u8>().add(page * PAGE as usize);
            IoSliceRaw::from_slice(std::slice::from_raw_parts(start, 1))
        };
        // SAFETY: as above.
        let spliced = unsafe { vmsplice(&pipe.1, &[slice], SpliceFlags::empty()) };
        assert_eq!(spliced.unwrap(), 1);
        Self { at, _pipe: pipe }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing refers to any more.
        let _ = unsafe { munmap(self.at, Self::SIZE) };
    }
}

fn all_pages_leave_ahead() {
    let (fd, block, pages) = file_in_block();
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let before = (ahead(), fd.stat().unwrap().relocated);
    offline(&block);
    let left = pages_in(&block, &fd);
    online(&block);
    assert_eq!(left, 0, "pages in an offline block");
    assert_eq!(ahead() - before.0, pages);
    // Once each: mm had none to ask for.
    assert_eq!(fd.stat().unwrap().relocated - before.1, pages);
    guest.verify();
}

fn a_running_guest_keeps_every_byte() {
    let fd = offlinable(SIZE);
    let mut guest = Guest::new(&fd, 2);
    guest.fill();
    let mut crew = guest.run();
    let before = ahead();
    let mut pages = 0;
    for _ in 0..3 {
        // Where they are then may never go offline.
        let Some((block, here)) = fullest(&fd) else {
            break;
        };
        pages += here;
        offline(&block);
        let left = pages_in(&block, &fd);
        online(&block);
        assert_eq!(left, 0, "pages in an offline block");
        crew = guest.goes_on(crew);
    }
    guest.end(crew);
    guest.verify();
    let ahead = ahead() - before;
    note(format!("{ahead} of {pages} pages in batches"));
    assert!(ahead >= pages / 2, "mm was left with most of {pages} pages");
}

fn pages_go_where_mm_would_put_them() {
    let (a, b) = two_nodes();
    let (fd, block, pages) = file_in_block();
    let other = if block.node == Some(a) { b } else { a };
    let before = fd.stat_node(other).unwrap().pages;
    offline(&block);
    let after = fd.stat_node(other).unwrap().pages;
    online(&block);
    assert_eq!(after - before, pages, "not all went to node {other}");
}

fn files_share_a_block() {
    const FILES: usize = 16;
    // Where this one's pages are, those of the next ones come to lie.
    let (place, block, _) = file_in_block();
    let size = SIZE / FILES as u64;
    let device = Device::open().unwrap();
    let options = Options::new(Mobility::Movable).node(block.node.unwrap_or(0));
    let files: Vec<PrivMemFd> = (0..FILES)
        .map(|_| device.create(size, options).unwrap())
        .collect();
    // In turn, so that they are neighbours.
    for at in (0..size).step_by(PAGE as usize) {
        let gone = at * FILES as u64;
        place.punch_hole(gone..gone + FILES as u64 * PAGE).unwrap();
        for fd in &files {
            fd.allocate(at..at + PAGE).unwrap();
        }
    }
    let mut guests: Vec<Guest> = files[..2].iter().map(|fd| Guest::new(fd, 1)).collect();
    guests.iter_mut().for_each(|guest| {
        guest.fill();
    });
    let (block, _) = fullest(&files[0]).expect("a block that can go offline");
    let pages: Vec<u64> = files.iter().map(|fd| pages_in(&block, fd)).collect();
    let before = ahead();
    offline(&block);
    let left: u64 = files.iter().map(|fd| pages_in(&block, fd)).sum();
    online(&block);
    assert_eq!(left, 0, "pages in an offline block");
    assert_eq!(ahead() - before, pages.iter().sum::<u64>());
    for (fd, pages) in files.iter().zip(&pages) {
        assert_eq!(fd.stat().unwrap().relocated, *pages);
    }
    guests.iter_mut().for_each(|guest| {
        guest.verify();
    });
}

fn an_offline_that_is_cancelled_loses_nothing() {
    let (fd, block, pages) = file_in_block();
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let stuck = Stuck::in_block(&block);
    let before = ahead();
    let request = offlining(&block);
    let left = wait_for(PATIENCE, || ahead() - before == pages);
    let errno = interrupt(request);
    assert!(left, "{} of {pages} pages have left", ahead() - before);
    assert_eq!(errno, libc::EINTR);
    assert!(is_online(&block));
    guest.verify();
    drop(stuck);
    // The block is as good as any other.
    offline(&block);
    online(&block);
    guest.verify();
}

fn a_signal_ends_it_at_any_time() {
    let fd = offlinable(SIZE);
    let mut guest = Guest::new(&fd, 2);
    guest.fill();
    let crew = guest.run();
    let mut interrupted = 0;
    for round in 0..12 {
        // When all have moved, anew from where they can.
        let Some((block, _)) = fullest(&fd) else {
            break;
        };
        let request = offlining(&block);
        thread::sleep(Duration::from_millis(round * 3));
        match interrupt(request) {
            0 => online(&block),
            libc::EINTR => interrupted += 1,
            errno => panic!("{}", io::Error::from_raw_os_error(errno)),
        }
        assert!(is_online(&block));
        assert_eq!(fd.stat().unwrap().pages, SIZE / PAGE);
    }
    guest.end(crew);
    guest.verify();
    note(format!("{interrupted} requests were interrupted"));
    assert!(interrupted > 0, "every signal came too late");
}

fn blocks_go_offline_at_once() {
    let (a, b) = two_nodes();
    let files = [offlinable_on(SIZE, a), offlinable_on(SIZE, b)];
    let mut guests = files.each_ref().map(|fd| Guest::new(fd, 1));
    guests.iter_mut().for_each(|guest| {
        guest.fill();
    });
    let blocks = files
        .each_ref()
        .map(|fd| fullest(fd).expect("a block that can go offline"));
    let before = ahead();
    let requests: Vec<Child> = blocks.iter().map(|(block, _)| offlining(block)).collect();
    for mut request in requests {
        let mut status = None;
        let ended = wait_for(PATIENCE, || {
            status = request.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "a request hangs");
        assert_eq!(status.and_then(|s| s.code()), Some(0));
    }
    let left: Vec<u64> = (0..2).map(|i| pages_in(&blocks[i].0, &files[i])).collect();
    blocks.iter().for_each(|(block, _)| online(block));
    assert_eq!(left, [0, 0], "pages in an offline block");
    assert!(ahead() - before >= blocks.iter().map(|(_, pages)| pages).sum());
    guests.iter_mut().for_each(|guest| {
        guest.verify();
    });
}

/// More pages than are looked at together: who takes the block offline may be the last to have the file,
/// which then goes when that has ended.
fn a_file_is_closed_meanwhile() {
    const SIZE: u64 = 64 * MIB;
    let mut ahead_of = 0;
    for round in 0..10 {
        let fd = offlinable(SIZE);
        let (block, _) = fullest(&fd).expect("a block that can go offline");
        let before = ahead();
        let mut request = offlining(&block);
        thread::sleep(Duration::from_millis(round * 3));
        drop(fd);
        assert!(
            wait_for(PATIENCE, || request.try_wait().unwrap().is_some()),
            "a file that was closed stays in the way"
        );
        assert_eq!(request.wait().unwrap().code(), Some(0));
        online(&block);
        ahead_of += ahead() - before;
    }
    note(format!(
        "{ahead_of} pages left before their file was closed"
    ));
}

fn a_busy_file_is_not_waited_for() {
    let fd = offlinable(SIZE);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let stop = Arc::new(AtomicBool::new(false));
    let busy = {
        let (fd, stop) = (fd.try_clone().unwrap(), stop.clone());
        // The last page comes and goes; each time the file is locked.
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                fd.punch_hole(SIZE - PAGE..SIZE).unwrap();
                fd.allocate(SIZE - PAGE..SIZE).unwrap();
            }
        })
    };
    for _ in 0..3 {
        let Some((block, _)) = fullest(&fd) else {
            break;
        };
        offline(&block);
        let left = pages_in(&block, &fd);
        online(&block);
        assert_eq!(left, 0, "pages in an offline block");
    }
    stop.store(true, Ordering::Relaxed);
    busy.join().unwrap();
    guest.job.memory.end -= PAGE;
    guest.verify();
}

fn pinned_pages_stay() {
    let size = 384 * MIB;
    let fd = file(size, Mobility::Pinned);
    fd.allocate(0..size).unwrap();
    let pfns = fd.pages(0..size).unwrap();
    let map = MemoryMap::read().unwrap();
    let before = ahead();
    let mut tried = 0;
    for (index, pages) in map.count(&pfns) {
        if pages < map.block_pages() / 2 {
            continue;
        }
        let request = offlining(&map.block(index));
        thread::sleep(Duration::from_millis(200));
        let errno = interrupt(request);
        // A block with a hole, as the first one is: mm looks at none of its pages.
        if errno == libc::EINVAL {
            continue;
        }
        assert!(
            matches!(errno, libc::EINTR | libc::EBUSY),
            "memory{index} with pinned pages: {}",
            io::Error::from_raw_os_error(errno)
        );
        tried += 1;
        if errno == libc::EINTR {
            break;
        }
    }
    if tried == 0 {
        skip("no block is full of pinned pages");
    }
    assert_eq!(fd.pages(0..size).unwrap(), pfns, "pinned pages moved");
    assert_eq!(ahead(), before);
}

fn main() -> ExitCode {
    if let Some((_, arguments)) = role() {
        return offlining_role(&arguments);
    }
    ktap::main(cases![
        "a block's pages leave it before mm asks for them" => all_pages_leave_ahead,
        "a running guest keeps every byte" => a_running_guest_keeps_every_byte,
        "pages go where mm would put them" => pages_go_where_mm_would_put_them,
        "sixteen files share a block" => files_share_a_block,
        "a request that is cancelled loses nothing" => an_offline_that_is_cancelled_loses_nothing,
        "a signal ends a request at any time" => a_signal_ends_it_at_any_time,
        "two blocks go offline at once" => blocks_go_offline_at_once,
        "a file is closed meanwhile" => a_file_is_closed_meanwhile,
        "a busy file is not waited for" => a_busy_file_is_not_waited_for,
        "pinned pages stay, and a signal ends the request" => pinned_pages_stay,
    ])
}
