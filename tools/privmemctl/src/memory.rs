// SPDX-License-Identifier: GPL-2.0
//! The machine's memory blocks, as sysfs shows them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/devices/system/memory";
pub(crate) const PAGE_SIZE: u64 = 4096;
/// Bits of an entry of /proc/self/pagemap.
const PRESENT: u64 = 1 << 63;
const PFN: u64 = (1 << 55) - 1;

/// A piece of memory that can be taken offline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Number N of `memoryN`.
    pub index: u64,
    /// NUMA node; `None` if it is not known.
    pub node: Option<u32>,
    /// Zone, or `none` where the block spans several.
    pub zone: String,
    /// Whether it is in use.
    pub online: bool,
}

impl Block {
    /// Its directory in sysfs.
    pub fn dir(&self) -> PathBuf {
        Path::new(ROOT).join(format!("memory{}", self.index))
    }

    /// Writes its state: `offline`, `online`, `online_movable` and so on.
    pub fn set_state(&self, state: &str) -> io::Result<()> {
        fs::write(self.dir().join("state"), state)
    }

    /// Whether nothing but movable pages can be in it.
    pub fn is_movable(&self) -> bool {
        self.zone == "Movable"
    }
}

/// All memory blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMap {
    /// Bytes in a block.
    pub block_size: u64,
    /// Blocks by number.
    pub blocks: BTreeMap<u64, Block>,
}

impl MemoryMap {
    /// Reads it from sysfs.
    pub fn read() -> io::Result<Self> {
        Self::read_from(Path::new(ROOT))
    }

    fn read_from(root: &Path) -> io::Result<Self> {
        let hex = fs::read_to_string(root.join("block_size_bytes"))?;
        let block_size = u64::from_str_radix(hex.trim().trim_start_matches("0x"), 16)
            .map_err(io::Error::other)?;
        let mut blocks = BTreeMap::new();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let name = entry.file_name();
            let index = name.to_str().and_then(|n| n.strip_prefix("memory"));
            let Some(index) = index.and_then(|n| n.parse().ok()) else {
                continue;
            };
            blocks.insert(index, read_block(index, &entry.path()));
        }
        // A kernel without NUMA has one node, of which sysfs says nothing.
        if blocks.values().all(|b| b.node.is_none()) {
            for block in blocks.values_mut() {
                block.node = Some(0);
            }
        }
        Ok(Self { block_size, blocks })
    }

    /// Pages in a block.
    pub fn block_pages(&self) -> u64 {
        self.block_size / PAGE_SIZE
    }

    /// Number of the block that holds a page.
    pub fn block_of(&self, pfn: u64) -> u64 {
        pfn / self.block_pages()
    }

    /// How many of these pages lie in each block.
    pub fn count<'a>(&self, pfns: impl IntoIterator<Item = &'a Option<u64>>) -> Census {
        let mut census = Census::new();
        for pfn in pfns.into_iter().flatten() {
            *census.entry(self.block_of(*pfn)).or_default() += 1;
        }
        census
    }

    /// The block of this number, or a stand-in if sysfs does not know it.
    pub fn block(&self, index: u64) -> Block {
        self.blocks.get(&index).cloned().unwrap_or(Block {
            index,
            node: None,
            zone: "?".into(),
            online: true,
        })
    }

    /// How many pages of a census lie on each node.
    pub fn per_node(&self, census: &Census) -> BTreeMap<Option<u32>, u64> {
        let mut nodes = BTreeMap::new();
        for (block, pages) in census {
            *nodes.entry(self.block(*block).node).or_default() += pages;
        }
        nodes
    }

    /// Nodes that have memory online.
    pub fn nodes(&self) -> Vec<u32> {
        let mut nodes: Vec<u32> = self.blocks.values().filter_map(|b| b.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// Pages by memory block.
pub type Census = BTreeMap<u64, u64>;

fn read_block(index: u64, dir: &Path) -> Block {
    let word = |file: &str| {
        fs::read_to_string(dir.join(file))
            .ok()
            .and_then(|text| text.split_whitespace().next().map(str::to_owned))
    };
    let node = fs::read_dir(dir).ok().and_then(|entries| {
        entries
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.strip_prefix("node")?.parse().ok())
            .min()
    });
    Block {
        index,
        node,
        zone: word("valid_zones").unwrap_or_else(|| "none".into()),
        online: word("state").is_none_or(|s| s == "online"),
    }
}

/// Freed pages stay on per-CPU lists, thousands of them on a large zone, where
/// compaction finds none: keeps these lists short until it is dropped.
pub struct ShortFreeLists(String);

impl ShortFreeLists {
    const FRACTION: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";

    /// Shortens them. Needs root.
    #[allow(clippy::new_without_default)] // It changes the host.
    pub fn new() -> io::Result<Self> {
        let before = fs::read_to_string(Self::FRACTION)?;
        fs::write(Self::FRACTION, i32::MAX.to_string())?;
        Ok(Self(before))
    }
}

impl Drop for ShortFreeLists {
    fn drop(&mut self) {
        let _ = fs::write(Self::FRACTION, self.0.trim());
    }
}

/// Page frame numbers of this process's memory from an address on, by
/// /proc/self/pagemap; `None` where nothing is mapped.
pub fn own_frames(at: u64, pages: usize) -> io::Result<Vec<Option<u64>>> {
    let mut bytes = vec![0u8; pages * 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut bytes, at / PAGE_SIZE * 8)?;
    Ok(bytes
        .chunks_exact(8)
        .map(|entry| frame(u64::from_ne_bytes(entry.try_into().expect("eight bytes"))))
        .collect())
}

pub(crate) fn frame(entry: u64) -> Option<u64> {
    (entry & PRESENT != 0).then_some(entry & PFN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> MemoryMap {
        let block = |index, node, zone: &str| Block {
            index,
            node: Some(node),
            zone: zone.into(),
            online: true,
        };
        MemoryMap {
            block_size: 128 << 20,
            blocks: [
                block(0, 0, "none"),
                block(1, 0, "Movable"),
                block(2, 1, "Normal"),
            ]
            .map(|b| (b.index, b))
            .into(),
        }
    }

    #[test]
    fn pages_are_counted_in_the_block_that_holds_them() {
        let m = map();
        let pfns = [Some(0), Some(32767), None, Some(32768), Some(70000)];
        assert_eq!(m.count(&pfns), Census::from([(0, 2), (1, 1), (2, 1)]));
        assert_eq!(
            m.per_node(&m.count(&pfns)),
            BTreeMap::from([(Some(0), 3), (Some(1), 1)])
        );
        assert_eq!(m.nodes(), [0, 1]);
    }

    #[test]
    fn a_page_beyond_the_known_blocks_is_still_counted() {
        let m = map();
        assert_eq!(m.count(&[Some(1 << 30)]).values().sum::<u64>(), 1);
        assert_eq!(m.block(99).node, None);
    }

    #[test]
    fn sysfs_is_read() {
        let dir = std::env::temp_dir().join(format!("privmemctl-{}", std::process::id()));
        let block = dir.join("memory5");
        fs::create_dir_all(block.join("node1")).unwrap();
        fs::create_dir_all(dir.join("power")).unwrap();
        fs::write(dir.join("block_size_bytes"), "8000000\n").unwrap();
        fs::write(block.join("valid_zones"), "Movable Normal\n").unwrap();
        fs::write(block.join("state"), "offline\n").unwrap();
        let m = MemoryMap::read_from(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(m.block_size, 128 << 20);
        assert_eq!(m.blocks.len(), 1);
        let b = &m.blocks[&5];
        assert_eq!((b.node, b.online, b.is_movable()), (Some(1), false, true));
    }

    #[test]
    fn without_numa_all_memory_is_of_node_0() {
        let dir = std::env::temp_dir().join(format!("privmemctl-nonuma-{}", std::process::id()));
        fs::create_dir_all(dir.join("memory5")).unwrap();
        fs::write(dir.join("block_size_bytes"), "8000000\n").unwrap();
        let m = MemoryMap::read_from(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(m.nodes(), [0]);
    }

    #[test]
    fn only_present_pages_have_a_frame() {
        assert_eq!(frame(1 << 63 | 77), Some(77));
        assert_eq!(frame(77), None);
    }
}
