// SPDX-License-Identifier: GPL-2.0
//! Memory is taken away by the tool: what keeps it, how it goes.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;

use demo::full_node::SPARE;
use privmemctl::frames::Usage;
use privmemctl::memory::{own_frames, Block, MemoryMap};
use privmemctl::place;
use privmemfd_ioctls::{Mobility, Options, PrivMemFd};
use selftests::cases;
use selftests::effects::{affects_machine, Effect};
use selftests::fixtures::{device, two_nodes, Guest, MIB, PAGE};
use selftests::hostmem::{cma_frames, full_node, heal, movable_blocks, CompactUnevictable};
use selftests::ktap::{self, skip};
use selftests::starve::FailingCopies;
use selftests::tool::{complains, ends, says, tells, Holder};
use serde_json::Value;

const SIZE: u64 = 4 * MIB;
/// A little more than a memory block.
const BLOCK: u64 = 136 * MIB;

/// A file with pages in a block that can go offline: in ZONE_MOVABLE, and without pages
/// that the kernel has taken at boot.
struct Case {
    file: PrivMemFd,
    block: Block,
    /// Its pages there.
    pages: u64,
    // What lies in the blocks before that one.
    _before: Vec<PrivMemFd>,
}

fn in_a_block_that_goes(size: u64) -> Case {
    let mut before = Vec::new();
    for node in MemoryMap::read().unwrap().nodes() {
        let filled = |size| {
            let options = Options::new(Mobility::Movable).node(node);
            let file = device().create(size, options).unwrap();
            file.allocate(0..size).unwrap();
            file
        };
        for _ in 0..4 {
            let file = filled(size);
            let mut blocks = movable_blocks(&file, size);
            blocks.retain(|(block, _)| goes(block));
            if let Some((block, pages)) = blocks.into_iter().max_by_key(|b| b.1) {
                return Case {
                    file,
                    block,
                    pages,
                    _before: before,
                };
            }
            before.push(filled(BLOCK));
        }
    }
    skip("no ZONE_MOVABLE (boot with movablecore=)");
}

/// Whether a block of movable memory has no pages from before there were zones.
fn goes(block: &Block) -> bool {
    let pages = MemoryMap::read().unwrap().block_pages();
    let first = block.index * pages;
    let flags = privmemctl::frames::flags(first..first + pages).unwrap();
    flags.iter().all(|f| f.usage() != Usage::Reserved)
}

fn name(block: &Block) -> String {
    format!("memory{}", block.index)
}

/// Takes the block back when it is dropped.
struct Back<'a>(&'a Block);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        let _ = self.0.set_state("online_movable");
    }
}

fn pages_there(file: &PrivMemFd, block: &Block) -> u64 {
    let map = MemoryMap::read().unwrap();
    let size = file.stat().unwrap().size;
    let census = map.count(&file.pages(0..size).unwrap());
    census.get(&block.index).copied().unwrap_or(0)
}

/// What is said of our file.
fn ours(answer: &Value) -> Value {
    let pid = std::process::id();
    let findings = answer["places"][0]["findings"].as_array().unwrap();
    let mine = findings.iter().find(|f| f["files"][0]["pid"] == pid);
    mine.unwrap_or_else(|| panic!("not named: {answer:#}"))
        .clone()
}

fn why_names_movable_memory() {
    let Case {
        file, block, pages, ..
    } = &in_a_block_that_goes(SIZE);
    let answer = tells(&format!("why {}", name(block)), 0);
    let mine = ours(&answer);
    assert_eq!(mine["verdict"], "yes");
    assert_eq!(mine["pages"], *pages);
    assert_eq!(mine["files"][0]["fd"], file.as_fd().as_raw_fd());
    let frame = mine["frame"].as_u64().unwrap();
    assert!(file.pages(0..SIZE).unwrap().contains(&Some(frame)));
    let address = format!("why {:#x}", frame * PAGE);
    assert!(says(&address).starts_with(&name(block)), "{address}");
}

fn why_names_pinned_memory() {
    let holder = Holder::new("--size 4M --pinned");
    let map = MemoryMap::read().unwrap();
    let census = map.count(&holder.file().pages(0..SIZE).unwrap());
    let (block, pages) = census.into_iter().max_by_key(|(_, pages)| *pages).unwrap();
    let text = ends(&format!("why memory{block}"), 3);
    let number = privmemctl::draw::number(pages);
    let line = text.lines().find(|l| l.contains("private memory"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("STAYS") && line.contains(&number), "{text}");
    assert!(
        text.contains(&format!("(pid {}) descriptor {}", holder.pid, holder.fd)),
        "{text}"
    );
    assert!(text.contains("pinned: nothing moves these pages"), "{text}");
    // Nothing is tried that would wait for ever.
    let text = ends(&format!("evacuate memory{block} --offline"), 3);
    assert!(text.starts_with("nothing done"), "{text}");
    let text = ends(&format!("evacuate memory{block}"), 3);
    assert!(text.contains("pinned: nothing moves these pages"), "{text}");
}

/// The kernel's own pages, those of a boot, and what compaction is told.
fn why_names_what_is_not_ours() {
    let text = ends("why memory0", 3);
    assert!(
        text.contains("STAYS") && text.contains("reserved"),
        "{text}"
    );
    let nodes = ends("why node0", 3);
    assert!(nodes.matches("zone ").count() > 1, "{nodes}");
    let _sysctl = CompactUnevictable::allowed(false);
    let answer = tells("why memory0", 3);
    assert!(answer["compaction"].as_str().unwrap().contains("is 0"));
}

fn why_names_the_processes_that_map_memory() {
    let (memory, _, frames) = mapped_in_movable_memory();
    let map = MemoryMap::read().unwrap();
    let block = map.block_of(frames[0]);
    let here = frames.len();
    let answer = ends(&format!("--json why memory{block}"), 0);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let findings = answer["places"][0]["findings"].as_array().unwrap();
    let anonymous = findings.iter().find(|f| f["what"] == "anonymous memory");
    let processes = anonymous.unwrap()["processes"].as_array().unwrap().clone();
    let mine = processes.iter().find(|p| p["pid"] == std::process::id());
    let pages = mine.unwrap()["pages"].as_u64().unwrap();
    assert!(pages >= here as u64, "{pages} of {here}");
    drop(memory);
}

/// Memory of this process, some of it in a block that can go offline: all of it, where that
/// part is, and its frames.
fn mapped_in_movable_memory() -> (Vec<Vec<u8>>, usize, Vec<u64>) {
    let map = MemoryMap::read().unwrap();
    let mut memory = Vec::new();
    for _ in 0..24 {
        memory.push(vec![1u8; 64 * MIB as usize]);
        let at = (memory.last().unwrap().as_ptr() as u64).next_multiple_of(PAGE);
        let frames = own_frames(at, 64 * 256 - 1).unwrap();
        let blocks: Vec<u64> = frames.iter().flatten().map(|f| map.block_of(*f)).collect();
        let wanted = |index: &u64| {
            let block = map.block(*index);
            block.is_movable() && goes(&block)
        };
        let Some(index) = BTreeSet::from_iter(blocks).into_iter().find(wanted) else {
            continue;
        };
        let is_there = |f: &Option<u64>| f.is_some_and(|f| map.block_of(f) == index);
        let first = frames.iter().position(is_there).unwrap();
        let there = frames[first..].iter().take_while(|f| is_there(f)).flatten();
        let at = at as usize + first * PAGE as usize;
        return (memory, at, there.copied().collect());
    }
    skip("this process gets no movable memory");
}

fn why_knows_cma_areas() {
    let answer = says("why --cma");
    assert!(answer.starts_with("CMA area "), "{answer}");
    let json: Value = serde_json::from_str(&says("--json why --cma")).unwrap();
    assert!(json["places"][0]["pages"].as_u64().unwrap() > 0);
    let frame = place::cma(None).unwrap()[0].frames.start;
    let text = ends(&format!("why {:#x}", frame * PAGE), 3);
    assert!(
        text.contains("mm takes no block with a CMA area offline"),
        "{text}"
    );
}

/// Pages of the file that are in one of these places.
fn pages_inside(file: &PrivMemFd, places: &[place::Place]) -> u64 {
    let pages = file.resident().unwrap();
    let is_inside = |frame| places.iter().any(|p| p.frames.contains(frame));
    pages.iter().filter(|(_, frame)| is_inside(frame)).count() as u64
}

/// Pages get into an area only where its node has no other memory: it is full meanwhile.
fn private_memory_leaves_cma_areas() {
    two_nodes();
    let map = MemoryMap::read().unwrap();
    if cma_frames().is_empty() {
        // The log also has areas that the kernel has then not made.
        skip("nobody says for sure where CMA areas are (CONFIG_CMA_DEBUGFS, or cmaalloc.ko)");
    }
    // Else the kernel itself may bring pages in or out while they are counted.
    let _compaction = CompactUnevictable::allowed(false);
    let areas = place::cma(Some(&map)).unwrap();
    let area = areas.iter().max_by_key(|a| a.frames.end - a.frames.start);
    let (area, home) = area.and_then(|a| Some((a, a.node?))).unwrap();
    let away = map.nodes().into_iter().find(|n| *n != home).unwrap();
    let size = SPARE + 8 * MIB;
    let file = device()
        .create(size, Options::new(Mobility::Movable).node(away))
        .unwrap();
    let mut guest = Guest::new(&file, 1);
    guest.fill();
    let inside = || pages_inside(&file, &areas);
    let full = full_node(home, &area.frames);
    assert_eq!(file.move_range(0..size, Some(home)).unwrap(), size / PAGE);
    let before = inside();
    assert!(before > 0, "no page has come into {area}");
    let number = privmemctl::draw::number(before);
    let plan = says("evacuate --cma --dry-run");
    assert!(
        plan.contains(&format!("would move {number} pages of ")),
        "{plan}"
    );
    assert_eq!(inside(), before);
    let crew = guest.run();
    let answer = tells("evacuate --cma --timeout 30", 0);
    guest.end(crew);
    drop(full);
    assert_eq!(answer["moved"], before, "{answer:#}");
    assert_eq!((&answer["left"], inside()), (&0.into(), 0));
}

/// Where there is no other node, other memory of the node does: an area is used last.
fn private_memory_leaves_the_cma_area_of_the_only_node() {
    let map = MemoryMap::read().unwrap();
    if map.nodes() != [0] || cma_frames().is_empty() {
        skip("needs one node, and CONFIG_CMA_DEBUGFS");
    }
    // Else the kernel itself may bring pages in or out while they are counted.
    let _compaction = CompactUnevictable::allowed(false);
    let areas = place::cma(Some(&map)).unwrap();
    let size = SPARE + 8 * MIB;
    let full = full_node(0, &areas[0].frames);
    let file = device()
        .create(size, Options::new(Mobility::Movable))
        .unwrap();
    file.allocate(0..size).unwrap();
    drop(full);
    let inside = || pages_inside(&file, &areas);
    let before = inside();
    assert!(before > 0, "no page has come into {}", areas[0]);
    let plan = says("evacuate --cma --dry-run");
    assert!(plan.contains("to other memory of the same node"), "{plan}");
    let answer = tells("evacuate --cma --timeout 30", 0);
    assert_eq!(
        (&answer["moved"], &answer["left"], inside()),
        (&before.into(), &0.into(), 0)
    );
}

fn a_dry_run_does_nothing() {
    two_nodes();
    let Case {
        file, block, pages, ..
    } = &in_a_block_that_goes(SIZE);
    let before = file.pages(0..SIZE).unwrap();
    let text = says(&format!("evacuate {} --dry-run", name(block)));
    let number = privmemctl::draw::number(*pages);
    assert!(
        text.contains(&format!("would move {number} pages of ")),
        "{text}"
    );
    assert_eq!(file.pages(0..SIZE).unwrap(), before);
}

/// Below a guest that verifies, and again when nothing is left.
fn private_memory_leaves_a_block() {
    two_nodes();
    let Case {
        file, block, pages, ..
    } = &in_a_block_that_goes(SIZE);
    let mut guest = Guest::new(file, 1);
    guest.fill();
    let crew = guest.run();
    let answer = tells(&format!("evacuate {}", name(block)), 0);
    guest.end(crew);
    assert!(answer["moved"].as_u64().unwrap() >= *pages, "{answer:#}");
    assert_eq!(answer["moved"], answer["pages"]);
    assert_eq!((&answer["left"], &answer["failed"]), (&0.into(), &0.into()));
    assert_eq!(pages_there(file, block), 0);
    let text = says(&format!("evacuate {}", name(block)));
    assert!(text.starts_with("0 pages moved"), "{text}");
}

fn pages_whose_memory_fails_are_told() {
    affects_machine(Effect::Poison);
    two_nodes();
    let Case { file, block, .. } = &in_a_block_that_goes(SIZE);
    let mut guest = Guest::new(file, 1);
    guest.fill();
    let before = file.pages(0..SIZE).unwrap();
    let text = {
        let _failing = FailingCopies::next(3);
        ends(&format!("evacuate {}", name(block)), 3)
    };
    assert!(
        text.contains("3 are lost: their memory has failed"),
        "{text}"
    );
    heal(file, &mut guest, &before, 3);
}

fn it_ends_in_time_and_goes_on() {
    two_nodes();
    let size = 96 * MIB;
    let Case {
        file, block, pages, ..
    } = &in_a_block_that_goes(size);
    let first = tells(&format!("evacuate {} --timeout 0.01", name(block)), 4);
    let (moved, left) = (
        first["moved"].as_u64().unwrap(),
        first["left"].as_u64().unwrap(),
    );
    assert!(left > 0 && first["out_of_time"] == true, "{first:#}");
    assert!(moved + left >= *pages, "{first:#}");
    assert_eq!(moved + left, first["pages"].as_u64().unwrap(), "{first:#}");
    assert_eq!(
        tells(&format!("evacuate {}", name(block)), 0)["moved"],
        left
    );
    assert_eq!(pages_there(file, block), 0);
}

fn a_block_goes_offline() {
    affects_machine(Effect::Offline);
    two_nodes();
    let Case { file, block, .. } = &in_a_block_that_goes(SIZE);
    let mut guest = Guest::new(file, 1);
    guest.fill();
    let _back = Back(block);
    let text = says(&format!("evacuate {} --offline --timeout 60", name(block)));
    assert!(
        text.contains(&format!("{} is offline", name(block))),
        "{text}"
    );
    assert!(!MemoryMap::read().unwrap().block(block.index).online);
    guest.verify();
    assert_eq!(
        says(&format!("evacuate {} --offline", name(block))),
        "offline already\n"
    );
    assert!(says(&format!("why {}", name(block))).contains("is offline"));
}

/// A pipe holds pages of this process: the kernel would try for ever.
fn what_others_hold_ends_in_time() {
    affects_machine(Effect::Offline);
    let (memory, at, frames) = mapped_in_movable_memory();
    let map = MemoryMap::read().unwrap();
    let block = map.block(map.block_of(frames[0]));
    let _back = Back(&block);
    let (_reader, writer) = spliced(at);
    let text = ends(
        &format!("evacuate {} --offline --timeout 2", name(&block)),
        4,
    );
    assert!(text.contains("is not offline: the time is over"), "{text}");
    assert!(
        text.contains(&format!("(pid {}) maps", std::process::id())),
        "{text}"
    );
    assert!(MemoryMap::read().unwrap().block(block.index).online);
    drop((writer, memory));
}

/// A pipe with a reference to the page at this address of ours.
fn spliced(at: usize) -> (OwnedFd, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let part = libc::iovec {
        iov_base: at as *mut libc::c_void,
        iov_len: PAGE as usize,
    };
    // SAFETY: the memory is ours and is not written to; who drops the pipe first reads nothing.
    let n = unsafe { libc::vmsplice(writer.as_raw_fd(), &part, 1, 0) };
    assert!(n > 0, "{}", io::Error::last_os_error());
    (reader, writer)
}

fn mistakes_are_explained() {
    for command in ["why", "evacuate"] {
        complains(command, 2, "BLOCK|NODE");
        complains(&format!("{command} blk1"), 2, "names no memory");
        complains(&format!("{command} 9-3"), 2, "before it begins");
        complains(
            &format!("{command} memory1 --cma"),
            2,
            "cannot be used with",
        );
        complains(&format!("{command} memory999999"), 1, "blocks are memory0");
        complains(&format!("{command} node99"), 1, "node 99 has no memory");
        complains(
            &format!("{command} 0xffffffffffffffff"),
            1,
            "no memory block has",
        );
    }
    complains("evacuate --cma --offline", 2, "cannot be used with");
    complains("evacuate node0 --to 0", 1, "that is where it is to leave");
    complains("evacuate node0 --to 99", 1, "no such node");
    complains("evacuate node0 --timeout 0", 1, "--timeout takes");
}

fn main() -> ExitCode {
    ktap::main(cases![
        "why names movable private memory, by block and by address" => why_names_movable_memory,
        "why names pinned memory, and evacuate does not wait for it" => why_names_pinned_memory,
        "why names what is not ours" => why_names_what_is_not_ours,
        "why names the processes that map memory" => why_names_the_processes_that_map_memory,
        "why knows CMA areas" => why_knows_cma_areas,
        "evacuate moves private memory out of CMA areas, below a guest" => private_memory_leaves_cma_areas,
        "evacuate moves private memory out of the CMA area of the only node" => private_memory_leaves_the_cma_area_of_the_only_node,
        "evacuate --dry-run does nothing" => a_dry_run_does_nothing,
        "evacuate moves private memory out, below a guest" => private_memory_leaves_a_block,
        "evacuate tells pages whose memory fails" => pages_whose_memory_fails_are_told,
        "evacuate ends in time, and goes on" => it_ends_in_time_and_goes_on,
        "evacuate takes a block offline" => a_block_goes_offline,
        "evacuate --offline ends in time if others hold pages" => what_others_hold_ends_in_time,
        "why and evacuate explain mistakes" => mistakes_are_explained,
    ])
}
