// SPDX-License-Identifier: GPL-2.0
//! What the host does to memory: moves, compaction, memory blocks.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use demo::full_node::FullNode;
use privmemctl::memory::{Block, MemoryMap};
use privmemfd_ioctls::{Mobility, Options, PrivMemFd};
use rustix::process::Signal;
use vmm::Exit;

use crate::effects::{affects_machine, Effect};
use crate::fixtures::{
    child, device, in_movable_zone, return_from, signal, wait_for, Guest, MIB, PAGE, PATIENCE,
};
use crate::ktap::{note, skip};

/// How often [`offlinable`] tries at most, and the bytes that it fills between two tries: a block.
const MOST_FILLERS: usize = 16;
const MOST_FILLED: u64 = 128 * MIB;

/// `echo 1 > /proc/sys/vm/compact_memory`.
pub fn compact() {
    fs::write("/proc/sys/vm/compact_memory", "1").unwrap();
}

/// Compaction moves what lies among holes: every other page of a file goes.
pub fn punch_every_other_page(fd: &PrivMemFd) {
    for offset in (0..fd.stat().unwrap().size).step_by(2 * PAGE as usize) {
        fd.punch_hole(offset..offset + PAGE).unwrap();
    }
}

/// Has compaction bring what lies in movable memory to where it wants it, so that the next
/// time it is about pages that came later. Else others may take the holes that are meant
/// for these.
fn settle() {
    for _ in 0..3 {
        compact();
    }
}

/// Repeats an attempt that says how many pages compaction has moved, until it has moved some, and
/// says how many. What else lies in memory decides that: what lies lower fills the holes first.
///
/// # Panics
///
/// If none has moved in all of [`PATIENCE`].
pub fn until_moved(mut attempt: impl FnMut() -> u64) -> u64 {
    let mut moved = 0;
    let any_moved = wait_for(PATIENCE, || {
        settle();
        moved = attempt();
        note(format!("compaction moved {moved} pages"));
        moved > 0
    });
    assert!(any_moved, "compaction moved no page");
    moved
}

/// Whether compaction may move pages that cannot be reclaimed, until it is dropped:
/// `vm.compact_unevictable_allowed`.
pub struct CompactUnevictable(String);

impl CompactUnevictable {
    const SYSCTL: &str = "/proc/sys/vm/compact_unevictable_allowed";

    /// Allows or forbids it; skips where compaction is not there or not ours to set.
    pub fn allowed(allowed: bool) -> Self {
        let Ok(before) = fs::read_to_string(Self::SYSCTL) else {
            skip("this kernel does not compact memory");
        };
        let value = if allowed { "1" } else { "0" };
        if let Err(e) = fs::write(Self::SYSCTL, value) {
            skip(format!("{}: {e}", Self::SYSCTL));
        }
        Self(before)
    }
}

impl Drop for CompactUnevictable {
    fn drop(&mut self) {
        let _ = fs::write(Self::SYSCTL, self.0.trim());
    }
}

/// One of the module's counters.
pub fn counter(name: &str) -> u64 {
    let path = format!("/sys/kernel/debug/privmemfd/{name}");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.trim().parse().unwrap()
}

/// Pages of all files that have moved since the module was loaded.
pub fn pages_relocated() -> u64 {
    counter("pages_relocated")
}

/// Blocks of movable memory that hold pages of a file.
pub fn movable_blocks(fd: &PrivMemFd, size: u64) -> Vec<(Block, u64)> {
    let map = MemoryMap::read().unwrap();
    let census = map.count(&fd.pages(0..size).unwrap());
    census
        .into_iter()
        .map(|(index, pages)| (map.block(index), pages))
        .filter(|(block, _)| block.is_movable())
        .collect()
}

/// Whether a block has nothing that the kernel took before there was a zone for what can move, and no
/// part of a CMA area: others never go offline.
pub fn can_go_offline(block: &Block) -> bool {
    let pages = MemoryMap::read().unwrap().block_pages();
    let frames = block.index * pages..(block.index + 1) * pages;
    let is_here = |area: &Range<u64>| area.start < frames.end && frames.start < area.end;
    if cma_frames().iter().any(is_here) {
        return false;
    }
    let mut flags = vec![0; pages as usize * 8];
    let file = File::open("/proc/kpageflags").unwrap();
    file.read_exact_at(&mut flags, block.index * pages * 8)
        .unwrap();
    let reserved = flags.chunks_exact(8).any(|entry| {
        u64::from_ne_bytes(entry.try_into().expect("eight bytes")) & KPF_RESERVED != 0
    });
    block.is_movable() && !reserved
}

/// A movable file with all its pages, most of them in one block that can go offline.
pub fn offlinable(size: u64) -> PrivMemFd {
    filled_offlinable(size, in_movable_zone).0
}

/// The same, the node that it is on, and what keeps its pages, when they move there, from blocks that
/// cannot.
pub fn offlinable_for_long(size: u64) -> (PrivMemFd, Option<u32>, Vec<PrivMemFd>) {
    let (fd, fillers) = filled_offlinable(size, in_movable_zone);
    let fullest = movable_blocks(&fd, size).into_iter().max_by_key(|b| b.1);
    (fd, fullest.and_then(|(block, _)| block.node), fillers)
}

/// The same on a node.
pub fn offlinable_on(size: u64, node: u32) -> PrivMemFd {
    let options = Options::new(Mobility::Movable).node(node);
    filled_offlinable(size, |size| device().create(size, options).unwrap()).0
}

fn filled_offlinable(size: u64, empty: impl Fn(u64) -> PrivMemFd) -> (PrivMemFd, Vec<PrivMemFd>) {
    affects_machine(Effect::Offline);
    let filled = |size| {
        let fd = empty(size);
        fd.allocate(0..size).unwrap();
        fd
    };
    // What fills the other blocks meanwhile: a block in a few steps, for to look is slow.
    let mut fillers = Vec::new();
    let mut filler = size;
    for _ in 0..MOST_FILLERS {
        let fd = filled(size);
        let fullest = movable_blocks(&fd, size).into_iter().max_by_key(|b| b.1);
        if fullest.is_some_and(|(block, _)| can_go_offline(&block)) {
            return (fd, fillers);
        }
        filler = (2 * filler).min(MOST_FILLED);
        fillers.extend([fd, filled(filler)]);
    }
    skip("no block of movable memory can go offline");
}

/// Takes the blocks that have pages of a file offline, those that can go, and back online; says how many
/// went.
pub fn offline_and_back(fd: &PrivMemFd, size: u64) -> u64 {
    let mut gone = 0;
    for (block, pages) in movable_blocks(fd, size) {
        if !can_go_offline(&block) {
            continue;
        }
        match block.set_state("offline") {
            Ok(()) => {
                block.set_state("online_movable").unwrap();
                gone += 1;
            }
            Err(e) => note(format!("memory{} with {pages} pages: {e}", block.index)),
        }
    }
    gone
}

/// A process, of a program that answers to [`offlining_role`], that takes a block offline, and ends
/// with the errno. A signal finds it at that.
pub fn offlining(block: &Block) -> Child {
    let mut child = child("offline", &[&block.index.to_string()]);
    let mut ready = [0];
    let pipe = child.stdout.as_mut().expect("a pipe");
    pipe.read_exact(&mut ready).unwrap();
    child
}

/// What [`offlining`] has the program do.
pub fn offlining_role(arguments: &[String]) -> ExitCode {
    return_from(libc::SIGUSR1);
    let index = arguments[0].parse().unwrap();
    let state = MemoryMap::read().unwrap().block(index).dir().join("state");
    let state = File::options().write(true).open(state).unwrap();
    print!("!");
    io::stdout().flush().unwrap();
    // Not by std, which tries again when a signal has come.
    let errno = rustix::io::write(&state, b"offline").err();
    let errno = errno.map_or(0, |e| e.raw_os_error());
    ExitCode::from(u8::try_from(errno).unwrap())
}

/// Interrupts a request until it has ended; says with what errno.
pub fn interrupt(mut request: Child) -> i32 {
    let mut status = None;
    let ended = wait_for(PATIENCE, || {
        signal(&request, Signal::USR1);
        status = request.try_wait().unwrap();
        status.is_some()
    });
    assert!(ended, "a signal does not end it");
    status.and_then(|s| s.code()).expect("no signal kills it")
}

/// Bit of [`page_flags`]: free.
pub const KPF_BUDDY: u64 = 1 << 10;
/// Bit of [`page_flags`]: marked as kept by the TDX module.
pub const KPF_RESERVED: u64 = 1 << 32;

/// What /proc/kpageflags says of a frame.
pub fn page_flags(pfn: u64) -> u64 {
    let mut flags = [0; 8];
    let file = File::open("/proc/kpageflags").unwrap();
    file.read_exact_at(&mut flags, pfn * 8).unwrap();
    u64::from_ne_bytes(flags)
}

/// Takes a page offline: "hard" as one that has failed, "soft" as one that will.
pub fn offline(action: &str, pfn: u64) -> io::Result<()> {
    affects_machine(Effect::Poison);
    let path = format!("/sys/devices/system/memory/{action}_offline_page");
    if !Path::new(&path).exists() {
        skip("no memory failure handling in this kernel");
    }
    fs::write(path, format!("{:#x}", pfn * PAGE))
}

/// A file of hwpoison-inject's that takes frames, open.
fn inject(name: &str) -> File {
    affects_machine(Effect::Poison);
    let path = Path::new("/sys/kernel/debug/hwpoison").join(name);
    let file = File::options().write(true).open(path);
    file.unwrap_or_else(|_| skip("no simulated failures (insmod hwpoison-inject.ko)"))
}

/// Says that the failure of a frame was a simulated one: it may be used again.
pub fn unpoison(pfn: u64) -> io::Result<()> {
    inject("unpoison-pfn").write_all(format!("{pfn:#x}").as_bytes())
}

/// Waits until `failed` pages of a file, from its start on, have left it since `before`, sees that
/// the guest cannot use them, and gives them new memory. The failures were simulated ones.
pub fn heal(
    fd: &PrivMemFd,
    guest: &mut Guest,
    before: &[Option<u64>],
    failed: usize,
) -> Vec<usize> {
    let size = before.len() as u64 * PAGE;
    let lost = || -> Vec<usize> {
        let now = fd.pages(0..size).unwrap();
        let gone = |page: &usize| before[*page].is_some() && now[*page].is_none();
        (0..before.len()).filter(gone).collect()
    };
    assert!(
        wait_for(PATIENCE, || lost().len() == failed),
        "{:?} have left the file",
        lost()
    );
    let pages = lost();
    for page in &pages {
        let exit = guest.read(guest.page(*page as u64));
        let Exit::MemoryFault {
            errno: libc::EHWPOISON,
            ..
        } = exit
        else {
            panic!("access to failed memory: {exit:?}");
        };
        let at = *page as u64 * PAGE;
        fd.punch_hole(at..at + PAGE).unwrap();
        unpoison(before[*page].unwrap()).unwrap();
    }
    pages
}

/// Lets frames fail, and takes no memory for that.
pub struct Failing(File);

impl Failing {
    /// Gets ready.
    pub fn ready() -> Self {
        Self(inject("corrupt-pfn"))
    }

    /// Lets one fail.
    pub fn frame(&mut self, pfn: u64) -> io::Result<()> {
        let mut text = [b'0'; 18];
        text[1] = b'x';
        for (digit, byte) in text[2..].iter_mut().rev().enumerate() {
            *byte = b"0123456789abcdef"[(pfn >> (4 * digit) & 15) as usize];
        }
        self.0.write_all(&text)
    }
}

/// Marks a frame as failed, and no more.
pub fn mark_failed(pfn: u64) {
    affects_machine(Effect::Poison);
    let path = Path::new("/sys/module/markfailed/parameters/pfn");
    if !path.exists() {
        skip("nobody marks pages as failed (insmod markfailed.ko)");
    }
    fs::write(path, pfn.to_string()).unwrap();
}

/// Frames of every CMA area that debugfs shows.
pub fn cma_frames() -> Vec<std::ops::Range<u64>> {
    let number = |path: std::path::PathBuf| -> Option<u64> {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let areas = fs::read_dir("/sys/kernel/debug/cma").into_iter().flatten();
    areas
        .flatten()
        .filter_map(|e| {
            let dir = e.path();
            let base =
                number(dir.join("base_pfn")).or_else(|| number(dir.join("ranges/0/base_pfn")))?;
            Some(base..base + number(dir.join("count"))?)
        })
        .collect()
}

/// The demonstration's program, which lies beside the tests and takes memory.
pub fn demonstration() -> PathBuf {
    affects_machine(Effect::Limits);
    let mut program = std::env::current_exe().unwrap();
    program.set_file_name("privmemfd-demo");
    if !program.exists() {
        skip("privmemfd-demo, which fills nodes, is not beside the tests");
    }
    program
}

/// A full node.
pub fn full_node(node: u32, area: &Range<u64>) -> FullNode {
    FullNode::new(&demonstration(), node, area).unwrap()
}

/// A thread that compacts memory without pause, until it is dropped.
pub struct Compactor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compactor {
    /// Starts it.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let s = stop.clone();
        let thread = thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                compact();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // What it has begun would move pages of the next case.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A thread that moves a file's pages, and compacts, without pause.
pub struct Mover {
    stop: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// Errors of a move that contention explains.
fn is_transient(errno: i32) -> bool {
    matches!(
        errno,
        libc::EAGAIN | libc::EBUSY | libc::ENOMEM | libc::EINTR
    )
}

impl Mover {
    /// Starts it; any error that contention does not explain is a panic.
    pub fn start(fd: &PrivMemFd) -> Self {
        Self::start_on(fd, None)
    }

    /// The same to places on a node.
    pub fn start_on(fd: &PrivMemFd, node: Option<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let moved = Arc::new(AtomicU64::new(0));
        let (fd, s, m) = (fd.try_clone().unwrap(), stop.clone(), moved.clone());
        let thread = thread::spawn(move || {
            let size = fd.stat().unwrap().size;
            for round in 0u64.. {
                if s.load(Ordering::Relaxed) {
                    break;
                }
                match fd.move_range(0..size, node) {
                    Ok(n) => m.fetch_add(n, Ordering::Relaxed),
                    Err(e) if is_transient(e.errno()) => m.fetch_add(e.moved, Ordering::Relaxed),
                    Err(e) => panic!("{e}"),
                };
                if round % 8 == 7 {
                    compact();
                }
                thread::sleep(Duration::from_micros(100));
            }
        });
        Self {
            stop,
            moved,
            thread: Some(thread),
        }
    }

    /// How many pages it has moved on request.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Ends it; returns how many pages it moved on request.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("ends once");
        assert!(thread.join().is_ok(), "the thread that moves pages failed");
        self.moved.load(Ordering::Relaxed)
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
