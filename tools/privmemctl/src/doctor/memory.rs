// SPDX-License-Identifier: GPL-2.0
//! Zones, settings, and whether what is here fits elsewhere.

use std::collections::BTreeMap;

use privmemfd_ioctls::Mobility;

use super::Check;
use crate::clear::free_on;
use crate::draw::bytes;
use crate::host::compaction_obstacle;
use crate::memory::{Census, MemoryMap};
use crate::place;
use crate::shares::OpenFile;

pub(super) fn checks() -> Vec<Check> {
    let Ok(map) = MemoryMap::read() else {
        return Vec::new();
    };
    let mut checks = vec![zones(&map), areas(&map)];
    checks.push(match compaction_obstacle() {
        None => Check::ok("compaction moves these pages", ""),
        Some(why) => Check::note(
            "compaction does not move these pages",
            why,
            "sysctl vm.compact_unevictable_allowed=1",
        ),
    });
    checks.extend(sizes(&map));
    checks
}

fn zones(map: &MemoryMap) -> Check {
    let mut movable: BTreeMap<u32, u64> = BTreeMap::new();
    for block in map.blocks.values().filter(|b| b.online && b.is_movable()) {
        *movable.entry(block.node.unwrap_or(0)).or_default() += 1;
    }
    let size = bytes(map.block_size);
    if movable.is_empty() {
        return Check::note(
            "memory for movable pages only",
            format!(
                "none (blocks of {size}); the kernel's own pages may keep any block from going"
            ),
            "boot with movablecore= or movable_node, or bring memory online as online_movable",
        );
    }
    let nodes: Vec<String> = movable
        .into_iter()
        .map(|(node, blocks)| {
            format!(
                "node {node}: {} in {blocks} blocks",
                bytes(blocks * map.block_size)
            )
        })
        .collect();
    Check::ok(
        "memory for movable pages only",
        format!("{} (blocks of {size})", nodes.join(", ")),
    )
}

fn areas(map: &MemoryMap) -> Check {
    let areas = place::cma(Some(map)).unwrap_or_default();
    let all: u64 = areas.iter().map(|a| a.frames.end - a.frames.start).sum();
    Check::ok(
        "contiguous memory (CMA)",
        if all == 0 {
            "none that is known".into()
        } else {
            bytes(all << 12)
        },
    )
}

/// What each node holds that would have to go elsewhere.
fn sizes(map: &MemoryMap) -> Vec<Check> {
    const WHAT: &str = "private memory";
    if !rustix::process::geteuid().is_root() {
        return vec![Check::note(WHAT, "not for this user", "run it as root")];
    }
    let (mut movable, mut pinned) = (Census::new(), Census::new());
    for file in OpenFile::all().unwrap_or_default() {
        let census = match file.stat.mobility() {
            Some(Mobility::Pinned) => &mut pinned,
            _ => &mut movable,
        };
        let range = 0..u64::MAX;
        for (_, frame) in file.pages_in(&[range]).unwrap_or_default() {
            *census.entry(map.block_of(frame)).or_default() += 1;
        }
    }
    let free: BTreeMap<u32, u64> = map.nodes().into_iter().map(|n| (n, free_on(n))).collect();
    let mut checks = Vec::new();
    for (node, pages) in map.per_node(&movable) {
        let name = node.map_or("?".into(), |n| n.to_string());
        let room: u64 = free
            .iter()
            .filter(|(n, _)| Some(**n) != node)
            .map(|(_, f)| f)
            .sum();
        let found = format!(
            "node {name} has {}, and {} are free on other nodes",
            bytes(pages << 12),
            bytes(room)
        );
        checks.push(if pages << 12 <= room || free.len() < 2 {
            Check::ok(WHAT, found)
        } else {
            Check::note(WHAT, found, "free memory before that node is to be emptied")
        });
    }
    let pinned: u64 = pinned.values().sum();
    if pinned > 0 {
        checks.push(Check::note(
            "pinned private memory",
            format!(
                "{}, which keeps its memory blocks from going",
                bytes(pinned << 12)
            ),
            "privmemctl list --all shows whose it is",
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok(WHAT, "nobody has any"));
    }
    checks
}
