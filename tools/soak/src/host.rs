// SPDX-License-Identifier: GPL-2.0
//! What the host does to a file's memory, and the look at everything at the end.

use std::fs;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use privmemctl::memory::MemoryMap;
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd};
use selftests::fixtures::{wait_for, PATIENCE};
use vmm::VmType;

use crate::guest::Guest;
use crate::model::{Expect, Fault, Op, Page, State, FILES, LIMIT_PAGES, SLOTS, VMS};
use crate::process::{allocate_limited, killed_vm};
use crate::system::{bytes, ended, System, PAGE};
use crate::td;

const HWPOISON: &str = "/sys/kernel/debug/hwpoison";
const COUNTERS: &str = "/sys/kernel/debug/privmemfd";
/// A block with a page that has failed does not come back online. So many may be
/// lost in a run.
const BLOCKS_TO_LOSE: usize = 3;
static BLOCKS_LOST: AtomicUsize = AtomicUsize::new(0);
/// More than a memory block.
const BALLAST: u64 = 136 << 20;
/// Moves are asked for again when another operation of mm's was in the way.
const TRIES: usize = 100;

fn errno(e: &std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(0)
}

/// Takes the first pages of ZONE_MOVABLE of each node, until it is dropped: they lie in
/// memory blocks that have pages of the kernel's, and never go offline.
pub fn ballast() -> Vec<PrivMemFd> {
    let device = Device::open().expect("/dev/privmemfd");
    let nodes = MemoryMap::read().expect("memory blocks").nodes();
    let take = |node| {
        let fd = device.create(BALLAST, Options::new(Mobility::Movable).node(node));
        let fd = fd.expect("CREATE");
        fd.allocate(0..BALLAST).expect("fallocate");
        fd
    };
    nodes.into_iter().map(take).collect()
}

/// One number of the module's.
pub fn counter(name: &str) -> u64 {
    let path = format!("{COUNTERS}/{name}");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.trim().parse().expect("a number")
}

/// Operations on a file's memory.
pub fn act(system: &mut System, state: &State, op: &Op) {
    match op {
        Op::Allocate { file, at } => {
            let done = system.fd(*file).allocate(bytes(at)).map_err(|e| e.errno());
            ended(done, &state.expect, op);
        }
        Op::AllocateLimited { file, at } => {
            let done = allocate_limited(system.fd(*file), at, LIMIT_PAGES);
            ended(done, &state.expect, op);
        }
        Op::Punch { file, at } => system.fd(*file).punch_hole(bytes(at)).expect("punch hole"),
        Op::Move { file, at, node } => {
            move_pages(system, state, op, (*file, at), *node);
            look(system, state, *file);
        }
        Op::MoveWithFault { file, at, fault } => {
            let before = system.fd(*file).pages(bytes(at)).expect("PAGES");
            move_pages(system, state, op, (*file, at), None);
            if *fault == Fault::CopyFails {
                wait_until_lost(system, state, *file, (at, &before));
            }
            if !state
                .owned(*file)
                .and_then(|f| f.td.as_ref())
                .is_some_and(|t| t.lost)
            {
                look(system, state, *file);
            }
        }
        Op::Compact => {
            fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
            look_at_all(system, state);
        }
        Op::Soft { file, page } => {
            let old = pfn(system, *file, *page);
            let path = "/sys/devices/system/memory/soft_offline_page";
            let done = fs::write(path, format!("{:#x}", old * PAGE));
            system.failed.push(old);
            ended(done.map_err(|e| errno(&e)), &state.expect, op);
            if state.expect == Expect::Ok {
                assert_ne!(
                    pfn(system, *file, *page),
                    old,
                    "a page softly offline stays"
                );
            }
            look(system, state, *file);
        }
        Op::Poison { file, page } => {
            let bad = pfn(system, *file, *page);
            system.failed.push(bad);
            poison(bad);
            look(system, state, *file);
        }
        Op::Offline { file, page } => offline(system, state, op, (*file, *page)),
        Op::Online => online(system),
        Op::KilledVm { file, at } => {
            let how = killed_vm(system.fd(*file), at, state.serial);
            let want = match state.expect {
                Expect::Fault(n, errno) => Some((n, errno)),
                _ => None,
            };
            assert_eq!(how, want, "{op:?}: the page and the error where it stopped");
        }
        _ => unreachable!("no operation of the host's: {op:?}"),
    }
}

fn pfn(system: &System, file: usize, page: usize) -> u64 {
    let pfns = system
        .fd(file)
        .pages(bytes(&(page..page + 1)))
        .expect("PAGES");
    pfns[0].unwrap_or_else(|| panic!("page {page} of file {file} has no memory"))
}

/// A failure that can be taken back.
fn poison(pfn: u64) {
    let path = format!("{HWPOISON}/corrupt-pfn");
    let done = fs::write(&path, format!("{pfn:#x}"));
    done.unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// The module has memory_failure() take pages that could not be copied, a moment later.
fn wait_until_lost(
    system: &mut System,
    state: &State,
    file: usize,
    (at, before): (&Range<usize>, &[Option<u64>]),
) {
    let pages = &state.owned(file).expect("allowed").pages[at.clone()];
    let lost = |after: &[Option<u64>]| {
        let mut both = pages.iter().zip(after);
        both.all(|(page, pfn)| *page != Page::Failed || pfn.is_none())
    };
    let fd = system.fd(file);
    let gone = wait_for(PATIENCE, || lost(&fd.pages(bytes(at)).expect("PAGES")));
    assert!(gone, "a page that could not be copied stays in its file");
    let failed = pages
        .iter()
        .zip(before)
        .filter(|(page, _)| **page == Page::Failed);
    system.failed.extend(failed.filter_map(|(_, pfn)| *pfn));
}

fn move_pages(
    system: &System,
    state: &State,
    op: &Op,
    (file, at): (usize, &Range<usize>),
    node: Option<u32>,
) {
    let fd = system.fd(file);
    let mut moved = 0;
    let mut end = Err(libc::EAGAIN);
    for _ in 0..TRIES {
        match fd.move_range(bytes(at), node) {
            Ok(n) => (moved, end) = (moved.max(n), Ok(())),
            Err(e) => (moved, end) = (moved.max(e.moved), Err(e.errno())),
        }
        if end != Err(libc::EAGAIN) || !matches!(state.expect, Expect::Moved(_)) {
            break;
        }
    }
    match &state.expect {
        Expect::Moved(count) => {
            assert_eq!(end, Ok(()), "{op:?}, {moved} pages moved");
            assert!(
                count.contains(&moved),
                "{op:?} moved {moved} pages, expected {count:?}"
            );
        }
        other => ended(end, other, op),
    }
}

fn offline(system: &mut System, state: &State, op: &Op, (file, page): (usize, usize)) {
    // Of a page that has failed the file may tell nothing; others lie near it.
    let count = state.owned(file).expect("allowed").pages.len();
    let near = (page..count)
        .chain(0..page)
        .find_map(|n| system.block_of(file, n));
    let Some(block) = near.filter(|b| b.is_movable()) else {
        return;
    };
    let inside = |pfn: &u64| {
        let map = MemoryMap::read().expect("memory blocks");
        map.block_of(*pfn) == block.index
    };
    if system.failed.iter().any(inside) {
        if BLOCKS_LOST.load(Ordering::Relaxed) >= BLOCKS_TO_LOSE {
            return;
        }
        BLOCKS_LOST.fetch_add(1, Ordering::Relaxed);
    }
    let done = block.set_state("offline");
    if done.is_ok() {
        for file in (0..FILES).filter(|f| state.owned(*f).is_some()) {
            let f = state.owned(file).expect("filtered");
            let pfns = system
                .fd(file)
                .pages(0..f.pages.len() as u64 * PAGE)
                .expect("PAGES");
            for (pfn, page) in pfns.iter().zip(&f.pages) {
                let left = *page != Page::Failed && pfn.as_ref().is_some_and(inside);
                assert!(
                    !left,
                    "page {pfn:x?} of file {file} is in a block that is offline"
                );
            }
        }
        system.offline = Some(block);
    }
    ended(done.map_err(|e| errno(&e)), &state.expect, op);
    look_at_all(system, state);
}

fn online(system: &mut System) {
    let Some(block) = system.offline.take() else {
        return;
    };
    match block.set_state("online_movable") {
        // It has a page that has failed.
        Err(e) if errno(&e) == libc::EHWPOISON => {
            system.failed.retain(|pfn| {
                let map = MemoryMap::read().expect("memory blocks");
                map.block_of(*pfn) != block.index
            });
        }
        other => other.expect("a block comes back online"),
    }
}

/// Compares the pages of a file that have content, by whoever sees them.
fn look(system: &mut System, state: &State, file: usize) {
    let slots: Vec<_> = state
        .slots_of(file)
        .map(|(v, s, slot)| (v, s, slot.shared.len()))
        .collect();
    for (vm, slot, count) in slots {
        system.verify(state, vm, slot, &(0..count), false);
    }
    if state.owned(file).is_some_and(|f| f.td.is_some()) {
        td::check(system, state, file, None);
    }
}

fn look_at_all(system: &mut System, state: &State) {
    for file in 0..FILES {
        look(system, state, file);
    }
}

/// Compares everything with the model, also files that no VM uses.
pub fn check_all(system: &mut System, state: &State) {
    for vm in 0..VMS {
        for slot in 0..SLOTS {
            if let Some(count) = state.slot(vm, slot).map(|s| s.shared.len()) {
                system.verify(state, vm, slot, &(0..count), true);
            }
        }
    }
    // One that exists costs less than a new one.
    let mut guest = system.guests.iter_mut().find_map(Option::take);
    if let Some(guest) = &mut guest {
        guest.unbind_all();
    }
    for file in 0..FILES {
        let Some(f) = state.owned(file).filter(|f| !f.spoiled) else {
            continue;
        };
        if f.td.is_some() {
            td::check(system, state, file, None);
            continue;
        }
        let guest = guest.get_or_insert_with(|| Guest::new(VmType::SwProtected));
        let all = 0..f.pages.len();
        guest
            .bind(0, system.fd(file).as_fd(), &all)
            .expect("bind at the end");
        for n in all {
            match seen_at_the_end(state, file, n) {
                Page::Absent | Page::Maybe | Page::Zero => guest.is_zero(0, n),
                Page::Filled(serial) => guest.holds(0, n, serial),
                Page::Opaque => guest.touches(0, n),
                Page::Failed => guest.fails(0, n, libc::EHWPOISON),
            }
        }
        guest.unbind(0);
    }
}

fn seen_at_the_end(state: &State, file: usize, n: usize) -> Page {
    state.owned(file).expect("checked").pages[n]
}

/// Panics if the module has files or bindings still.
pub fn nothing_is_left() {
    let (bound, unbound) = (counter("slots_bound"), counter("slots_unbound"));
    assert_eq!(bound, unbound, "memslots bound and unbound");
}

impl Drop for System {
    fn drop(&mut self) {
        self.guests = Default::default();
        self.files = Default::default();
        if let Some(block) = self.offline.take() {
            let _ = block.set_state("online_movable");
        }
        for pfn in self.failed.drain(..) {
            let _ = fs::write(format!("{HWPOISON}/unpoison-pfn"), format!("{pfn:#x}"));
        }
    }
}
