// SPDX-License-Identifier: GPL-2.0
//! Pieces of memory as people name them: blocks, nodes, addresses, CMA areas.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use anyhow::{bail, Context};

use crate::kernel_log::{cma_areas, KernelLog};
use crate::memory::{Block, MemoryMap};

/// How the user names a piece of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Blocks by number, both ends included.
    Blocks(u64, u64),
    /// All blocks of a node.
    Node(u32),
    /// The block that has this physical address.
    Address(u64),
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no = || {
            format!(
                "{text:?} names no memory: give memory36, memory36-40, node1, \
                 or a physical address such as 0x123456000"
            )
        };
        if let Some(hex) = text.strip_prefix("0x") {
            let address = u64::from_str_radix(hex, 16).map_err(|_| no())?;
            return Ok(Self::Address(address));
        }
        if let Some(node) = text.strip_prefix("node") {
            return node.parse().map(Self::Node).map_err(|_| no());
        }
        let blocks = text.strip_prefix("memory").unwrap_or(text);
        let (first, last) = match blocks.split_once('-') {
            Some((first, last)) => (first, last.strip_prefix("memory").unwrap_or(last)),
            None => (blocks, blocks),
        };
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten().ok_or_else(no)
        };
        match (number(first)?, number(last)?) {
            (first, last) if first <= last => Ok(Self::Blocks(first, last)),
            (first, last) => Err(format!("memory{first}-{last} ends before it begins")),
        }
    }
}

/// A piece of memory that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What to call it.
    pub label: String,
    /// Its frames.
    pub frames: Range<u64>,
    /// The memory block that it is; `None` for a CMA area.
    pub block: Option<Block>,
    /// Node of its memory, if it is known.
    pub node: Option<u32>,
}

impl Place {
    /// Whether it has nothing but movable pages.
    pub fn is_movable(&self) -> bool {
        self.block.as_ref().is_some_and(Block::is_movable)
    }

    fn of_block(map: &MemoryMap, index: u64) -> Option<Self> {
        let block = map.blocks.get(&index)?.clone();
        let first = index * map.block_pages();
        Some(Self {
            label: format!("memory{index}"),
            frames: first..first + map.block_pages(),
            node: block.node,
            block: Some(block),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.frames.start << 12, self.frames.end << 12);
        write!(f, "{} (", self.label)?;
        if let Some(node) = self.node {
            write!(f, "node {node}, ")?;
        }
        if let Some(block) = &self.block {
            match (block.online, block.zone.as_str()) {
                (false, _) => f.write_str("offline, ")?,
                (true, "none") => f.write_str("of several zones, ")?,
                (true, zone) => write!(f, "zone {zone}, ")?,
            }
        }
        write!(f, "{start:#x}-{:#x})", end - 1)
    }
}

/// The places that a user has named, each once, in the order of their addresses.
///
/// # Errors
///
/// One that is not there, with what is.
pub fn find(map: &MemoryMap, names: &[Name]) -> anyhow::Result<Vec<Place>> {
    let mut blocks = BTreeSet::new();
    for name in names {
        match *name {
            Name::Blocks(first, last) => {
                let there = map.blocks.range(first..=last).map(|(index, _)| *index);
                let count = blocks.len();
                blocks.extend(there);
                if blocks.len() == count && map.blocks.range(first..=last).next().is_none() {
                    let ends = (map.blocks.keys().next(), map.blocks.keys().next_back());
                    let (Some(low), Some(high)) = ends else {
                        bail!("this machine has no memory blocks");
                    };
                    bail!("there is no memory{first}: blocks are memory{low} to memory{high}");
                }
            }
            Name::Node(node) => {
                let of_node = map.blocks.values().filter(|b| b.node == Some(node));
                let of_node: Vec<u64> = of_node.map(|b| b.index).collect();
                if of_node.is_empty() {
                    let nodes: Vec<String> = map.nodes().iter().map(u32::to_string).collect();
                    bail!("node {node} has no memory; nodes are {}", nodes.join(", "));
                }
                blocks.extend(of_node);
            }
            Name::Address(address) => {
                let index = address / map.block_size;
                if !map.blocks.contains_key(&index) {
                    bail!("no memory block has the address {address:#x}");
                }
                blocks.insert(index);
            }
        }
    }
    Ok(blocks
        .into_iter()
        .filter_map(|index| Place::of_block(map, index))
        .collect())
}

/// Every CMA area.
///
/// # Errors
///
/// There is none, or the kernel does not say where.
pub fn cma(map: Option<&MemoryMap>) -> anyhow::Result<Vec<Place>> {
    let mut places = cma_by_debugfs(Path::new("/sys/kernel/debug/cma"));
    if places.is_empty() {
        let lines = KernelLog::whole()
            .context("cannot read the kernel's log")?
            .lines();
        let areas = cma_areas(&lines).into_iter().enumerate();
        places = areas.map(|(i, r)| (format!("cma{i}"), r)).collect();
    }
    if places.is_empty() {
        bail!(
            "no CMA area: boot with cma=, or if there is one, use a kernel with \
             CONFIG_CMA_DEBUGFS (as root, with debugfs mounted)"
        );
    }
    let node_of = |pfn| map.and_then(|m| m.block(m.block_of(pfn)).node);
    Ok(places
        .into_iter()
        .map(|(label, frames)| Place {
            label: format!("CMA area {label}"),
            node: node_of(frames.start),
            frames,
            block: None,
        })
        .collect())
}

fn cma_by_debugfs(root: &Path) -> Vec<(String, Range<u64>)> {
    let number =
        |path: &Path| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let mut all = Vec::new();
    for area in fs::read_dir(root).into_iter().flatten().flatten() {
        let dir = area.path();
        let base = number(&dir.join("base_pfn")).or_else(|| number(&dir.join("ranges/0/base_pfn")));
        if let (Some(base), Some(count)) = (base, number(&dir.join("count"))) {
            let name = area.file_name().to_string_lossy().into_owned();
            all.push((name, base..base + count));
        }
    }
    all.sort_by_key(|(_, frames)| frames.start);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_is_named_as_sysfs_does() {
        for (text, name) in [
            ("memory36", Name::Blocks(36, 36)),
            ("36", Name::Blocks(36, 36)),
            ("memory36-40", Name::Blocks(36, 40)),
            ("memory36-memory40", Name::Blocks(36, 40)),
            ("node1", Name::Node(1)),
            ("0x120000000", Name::Address(0x1_2000_0000)),
        ] {
            assert_eq!(text.parse(), Ok(name), "{text}");
        }
    }

    #[test]
    fn what_names_nothing_says_what_would() {
        for text in [
            "", "memory", "node", "nodeX", "-1", "0x", "memory3-", "1-2-3", "+1", "blk3",
        ] {
            assert!(
                text.parse::<Name>()
                    .unwrap_err()
                    .contains("names no memory"),
                "{text}"
            );
        }
        assert!("9-3"
            .parse::<Name>()
            .unwrap_err()
            .contains("before it begins"));
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text: String) {
            if let Err(why) = text.parse::<Name>() {
                prop_assert!(!why.is_empty());
            }
        }
    }

    fn map() -> MemoryMap {
        let block = |index, node| Block {
            index,
            node: Some(node),
            zone: "Movable".into(),
            online: true,
        };
        MemoryMap {
            block_size: 128 << 20,
            blocks: [block(0, 0), block(1, 0), block(8, 1)]
                .map(|b| (b.index, b))
                .into(),
        }
    }

    #[test]
    fn places_are_found_once_each() {
        let places = |names: &[Name]| {
            find(&map(), names)
                .map(|p| p.iter().map(|p| p.frames.start / 32768).collect::<Vec<_>>())
        };
        assert_eq!(
            places(&[Name::Node(0), Name::Blocks(1, 8)]).unwrap(),
            [0, 1, 8]
        );
        assert_eq!(places(&[Name::Address(8 << 27 | 5)]).unwrap(), [8]);
        for (name, why) in [
            (Name::Blocks(9, 9), "blocks are memory0 to memory8"),
            (Name::Node(7), "nodes are 0, 1"),
            (Name::Address(u64::MAX), "no memory block has the address"),
        ] {
            assert!(places(&[name]).unwrap_err().to_string().contains(why));
        }
    }
}
