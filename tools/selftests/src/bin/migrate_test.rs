// SPDX-License-Identifier: GPL-2.0
//! Movable pages move with their content, pinned pages stay.

use std::process::ExitCode;

use privmemctl::memory::{MemoryMap, ShortFreeLists};
use privmemfd_ioctls::{Mobility, Options, PrivMemFd, Refusal, Zone};
use selftests::cases;
use selftests::effects::{affects_machine, Effect};
use selftests::fixtures::{
    device, ended, fails, file, for_compaction, movable, two_nodes, Guest, MIB, PAGE, PATIENCE,
};
use selftests::hostmem::{
    can_go_offline, cma_frames, compact, movable_blocks, offlinable, punch_every_other_page,
    until_moved, CompactUnevictable,
};
use selftests::ktap::{self, note, skip};

const SIZE: u64 = 8 * MIB;

fn moved_all(fd: &PrivMemFd, node: Option<u32>) -> u64 {
    let mut moved = 0;
    for _ in 0..100 {
        match fd.move_range(0..SIZE, node) {
            Ok(n) => return moved + n,
            Err(e) => {
                assert_eq!(e.errno(), libc::EAGAIN, "{e}");
                moved += e.moved;
            }
        }
    }
    panic!("still EAGAIN after 100 times");
}

fn content_is_kept_by_move() {
    let fd = movable(SIZE);
    let mut guest = Guest::new(&fd, 2);
    guest.fill();
    for _ in 0..3 {
        assert_eq!(moved_all(&fd, None), SIZE / PAGE);
        guest.verify();
    }
    assert_eq!(fd.stat().unwrap().relocated, 3 * SIZE / PAGE);
    assert_eq!(fd.stat().unwrap().pages, SIZE / PAGE);
}

fn a_running_guest_keeps_every_byte() {
    let fd = movable(SIZE);
    let mut guest = Guest::new(&fd, 2);
    guest.fill();
    let mut crew = guest.run();
    let mut moved = 0;
    for _ in 0..5 {
        moved += moved_all(&fd, None);
        crew = guest.goes_on(crew);
    }
    let progress = guest.end(crew);
    guest.verify();
    note(format!(
        "{moved} pages moved, {} bytes verified",
        progress.verified
    ));
    assert_eq!(moved, 5 * SIZE / PAGE);
}

fn pages_go_to_the_node_asked_for() {
    let (a, b) = two_nodes();
    let fd = movable(SIZE);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    for node in [a, b, a, b] {
        moved_all(&fd, Some(node));
        assert_eq!(fd.stat_node(node).unwrap().pages, SIZE / PAGE);
        assert_eq!(moved_all(&fd, Some(node)), 0, "already on node {node}");
        guest.verify();
    }
}

fn part_of_a_file_moves() {
    let fd = movable(SIZE);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let before = fd.pages(0..SIZE).unwrap();
    assert_eq!(fd.move_range(MIB..3 * MIB, None).unwrap(), 2 * MIB / PAGE);
    let after = fd.pages(0..SIZE).unwrap();
    for (i, (old, new)) in before.iter().zip(&after).enumerate() {
        let inside = (256..768).contains(&i);
        assert_eq!(old != new, inside, "page {i}");
    }
    guest.verify();
}

fn offline_moves_pages_away() {
    let fd = offlinable(SIZE);
    let mut guest = Guest::new(&fd, 2);
    guest.fill();
    let crew = guest.run();
    let mut offlined = 0;
    let blocks = movable_blocks(&fd, SIZE).into_iter();
    for (block, pages) in blocks.filter(|(block, _)| can_go_offline(block)) {
        let before = fd.stat().unwrap().relocated;
        if let Err(e) = block.set_state("offline") {
            note(format!("memory{} refused: {e}", block.index));
            continue;
        }
        let moved = fd.stat().unwrap().relocated - before;
        let map = MemoryMap::read().unwrap();
        let left = map.count(&fd.pages(0..SIZE).unwrap());
        block.set_state("online_movable").unwrap();
        assert_eq!(left.get(&block.index), None, "pages in an offline block");
        assert!(moved >= pages, "{moved} of {pages} pages counted");
        offlined += 1;
    }
    let crew = guest.goes_on(crew);
    guest.end(crew);
    guest.verify();
    assert!(offlined > 0, "every block refused to go offline, see above");
}

fn compaction_moves_pages() {
    // Not so by default on PREEMPT_RT.
    let _allowed = CompactUnevictable::allowed(true);
    let _lists = ShortFreeLists::new().unwrap();
    until_moved(compacted_below_a_guest);
}

/// Pages that compaction has moved, of a guest that has kept every byte.
fn compacted_below_a_guest() -> u64 {
    let fd = for_compaction(2 * SIZE);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    punch_every_other_page(&fd);
    let before = fd.stat().unwrap();
    for _ in 0..10 {
        compact();
        if fd.stat().unwrap().relocated > 100 {
            break;
        }
    }
    let after = fd.stat().unwrap();
    assert_eq!(after.pages, before.pages);
    guest.job.flags |= vmm::guest::ALLOW_ZERO;
    let job = guest.job.clone();
    let vcpus = std::mem::take(&mut guest.vcpus);
    let (_, p) = ended(vmm::Crew::verify_once(&guest.vm, vcpus, &job, PATIENCE));
    assert_eq!(p.mismatches, 0, "{p:x?}");
    assert_eq!(p.zeros, SIZE / 8, "cells in holes");
    after.relocated
}

/// Files look unevictable to mm.
fn compaction_heeds_its_sysctl() {
    let _lists = ShortFreeLists::new().unwrap();
    until_moved(|| {
        let fd = for_compaction(2 * SIZE);
        fd.allocate(0..2 * SIZE).unwrap();
        punch_every_other_page(&fd);
        let moved_when = |allowed| {
            let _sysctl = CompactUnevictable::allowed(allowed);
            compact();
            fd.stat().unwrap().relocated
        };
        assert_eq!(moved_when(false), 0, "pages moved when it was forbidden");
        moved_when(true)
    });
}

fn unbound_files_move_as_well() {
    let fd = movable(SIZE);
    fd.allocate(0..SIZE).unwrap();
    assert_eq!(moved_all(&fd, None), SIZE / PAGE);
    let mut guest = Guest::new(&fd, 1);
    assert_eq!(
        guest.not_zero(guest.memory()),
        0,
        "new memory is zero after a move"
    );
}

fn movable_pages_use_movable_memory() {
    let map = MemoryMap::read().unwrap();
    if !map.blocks.values().any(|b| b.is_movable() && b.online) {
        skip("no ZONE_MOVABLE (boot with movablecore=)");
    }
    let used = map.nodes().into_iter().any(|node| {
        let options = Options::new(Mobility::Movable).node(node);
        let fd = device().create(SIZE, options).unwrap();
        fd.allocate(0..SIZE).unwrap();
        fd.stat().unwrap().in_zone(Zone::Movable) > 0
    });
    assert!(used, "no node's ZONE_MOVABLE is used");
}

fn pinned_pages_stay() {
    let fd = file(SIZE, Mobility::Pinned);
    let mut guest = Guest::new(&fd, 2);
    guest.fill();
    let before = fd.pages(0..SIZE).unwrap();
    let crew = guest.run();
    for _ in 0..3 {
        fails(
            fd.move_range(0..SIZE, None),
            libc::EBUSY,
            "MOVE of a pinned file",
        );
        compact();
    }
    let map = MemoryMap::read().unwrap();
    if let Some(index) = map.count(&before).keys().next() {
        // A pinned page is what keeps a block from going offline.
        affects_machine(Effect::Offline);
        let block = map.block(*index);
        if let Ok(()) = block.set_state("offline") {
            let _ = block.set_state("online");
            panic!("memory{index} went offline with pinned pages in it");
        }
    }
    guest.end(crew);
    guest.verify();
    assert_eq!(fd.pages(0..SIZE).unwrap(), before, "pinned pages moved");
    let s = fd.stat().unwrap();
    assert_eq!(s.relocated, 0);
    assert!(
        s.refused_for(Refusal::Pinned) > 0,
        "refusals are counted: {s:?}"
    );
}

fn pinned_pages_are_out_of_the_way() {
    let fd = file(128 * MIB, Mobility::Pinned);
    fd.allocate(0..128 * MIB).unwrap();
    assert_eq!(fd.stat().unwrap().in_zone(Zone::Movable), 0);
    let cma = cma_frames();
    if cma.is_empty() {
        note("no CMA area to look into");
    }
    for pfn in fd.pages(0..128 * MIB).unwrap().into_iter().flatten() {
        assert!(
            !cma.iter().any(|c| c.contains(&pfn)),
            "page frame {pfn:#x} is in a CMA area"
        );
    }
}

fn pages_without_memory_stay_without() {
    let fd = movable(SIZE);
    fd.allocate(MIB..2 * MIB).unwrap();
    assert_eq!(moved_all(&fd, None), MIB / PAGE);
    compact();
    assert_eq!(fd.stat().unwrap().pages, MIB / PAGE);
}

fn a_node_is_preferred_not_enforced() {
    let (a, b) = two_nodes();
    for node in [a, b] {
        let fd = device()
            .create(SIZE, Options::new(Mobility::Movable).node(node))
            .unwrap();
        let mut guest = Guest::new(&fd, 1);
        guest.fill();
        assert_eq!(
            fd.stat_node(node).unwrap().pages,
            SIZE / PAGE,
            "node {node}"
        );
    }
}

fn main() -> ExitCode {
    ktap::main(cases![
        "MOVE keeps the guest's content" => content_is_kept_by_move,
        "a running guest keeps every byte over MOVE" => a_running_guest_keeps_every_byte,
        "MOVE brings pages to the node asked for" => pages_go_to_the_node_asked_for,
        "MOVE of a part leaves the rest" => part_of_a_file_moves,
        "offlining a memory block moves pages and keeps content" => offline_moves_pages_away,
        "compaction moves pages and keeps content" => compaction_moves_pages,
        "vm.compact_unevictable_allowed=0 keeps compaction off" => compaction_heeds_its_sysctl,
        "a file that no VM uses moves as well" => unbound_files_move_as_well,
        "movable files use ZONE_MOVABLE" => movable_pages_use_movable_memory,
        "pinned pages never move" => pinned_pages_stay,
        "pinned pages are neither in ZONE_MOVABLE nor in CMA" => pinned_pages_are_out_of_the_way,
        "moving gives no memory to pages without" => pages_without_memory_stay_without,
        "a file's pages come from its node" => a_node_is_preferred_not_enforced,
    ])
}
