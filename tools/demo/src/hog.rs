// SPDX-License-Identifier: GPL-2.0
//! Memory that gets in the way: fills a node, then leaves holes where wanted.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::mm::{madvise, mmap_anonymous, munmap, Advice, MapFlags, ProtFlags};

const PAGE: usize = 4096;
const CHUNK: usize = 16 << 20;

/// Anonymous memory on one node, all of it present.
#[derive(Debug)]
pub struct Hog {
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk(*mut u8);

impl Chunk {
    fn new() -> io::Result<Self> {
        // SAFETY: a new mapping in a place of the kernel's choice.
        let at = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                CHUNK,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let chunk = Self(at.cast());
        // Single pages, so that single pages can be given back.
        chunk.advise(0..CHUNK, Advice::LinuxNoHugepage)?;
        for offset in (0..CHUNK).step_by(PAGE) {
            // SAFETY: inside the mapping, which nothing else refers to.
            unsafe { chunk.0.add(offset).write_volatile(1) };
        }
        Ok(chunk)
    }

    fn advise(&self, part: Range<usize>, advice: Advice) -> io::Result<()> {
        assert!(part.end <= CHUNK);
        // SAFETY: inside the mapping; nothing relies on its content.
        unsafe { madvise(self.0.add(part.start).cast(), part.len(), advice)? };
        Ok(())
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing refers to any more.
        let _ = unsafe { munmap(self.0.cast(), CHUNK) };
    }
}

impl Hog {
    /// Takes memory of a node until only `spare` bytes of it are free.
    pub fn fill(node: u32, spare: u64) -> io::Result<Self> {
        let mut hog = Self { chunks: Vec::new() };
        let _only_here = OnlyNode::new(node)?;
        while free_on(node)? > spare + CHUNK as u64 {
            hog.chunks.push(Chunk::new()?);
        }
        Ok(hog)
    }

    /// Bytes it took.
    pub fn bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK) as u64
    }

    /// Gives every `step`th page back, from page `first` on.
    pub fn punch(&self, first: usize, step: usize) -> io::Result<()> {
        for chunk in &self.chunks {
            for offset in (first * PAGE..CHUNK).step_by(step * PAGE) {
                chunk.advise(offset..offset + PAGE, Advice::LinuxDontNeed)?;
            }
        }
        Ok(())
    }

    /// Gives back the pages that lie in a range of page frames; returns how many.
    pub fn release_frames(&self, frames: &Range<u64>) -> io::Result<u64> {
        let pagemap = File::open("/proc/self/pagemap")?;
        let mut entries = vec![0u8; CHUNK / PAGE * 8];
        let mut released = 0;
        for chunk in &self.chunks {
            pagemap.read_exact_at(&mut entries, (chunk.0 as usize / PAGE * 8) as u64)?;
            for (i, entry) in entries.chunks_exact(8).enumerate() {
                if pfn(entry).is_some_and(|pfn| frames.contains(&pfn)) {
                    chunk.advise(i * PAGE..(i + 1) * PAGE, Advice::LinuxDontNeed)?;
                    released += 1;
                }
            }
        }
        Ok(released)
    }
}

fn pfn(entry: &[u8]) -> Option<u64> {
    let entry = u64::from_le_bytes(entry.try_into().ok()?);
    (entry >> 63 == 1).then_some(entry & ((1 << 55) - 1))
}

/// Free bytes on a node.
pub fn free_on(node: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/sys/devices/system/node/node{node}/meminfo"))?;
    parse_free(&text).ok_or_else(|| io::Error::other("no MemFree in the node's meminfo"))
}

fn parse_free(text: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.contains("MemFree:"))?;
    let kib: u64 = line.split_whitespace().rev().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

/// While it lives, this thread's memory comes from one node.
struct OnlyNode;

impl OnlyNode {
    const DEFAULT: i64 = 0;
    const BIND: i64 = 2;

    fn new(node: u32) -> io::Result<Self> {
        Self::set(Self::BIND, 1 << node)?;
        Ok(Self)
    }

    fn set(mode: i64, nodes: u64) -> io::Result<()> {
        let (mask, bits) = if nodes == 0 {
            (std::ptr::null(), 0)
        } else {
            (&raw const nodes, 64)
        };
        // SAFETY: the kernel reads 64 bits at `mask`, or nothing.
        match unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for OnlyNode {
    fn drop(&mut self) {
        let _ = Self::set(Self::DEFAULT, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_from_the_node() {
        let text = "Node 0 MemTotal:  100 kB\nNode 0 MemFree:   48 kB\n";
        assert_eq!(parse_free(text), Some(48 << 10));
        assert_eq!(parse_free("nothing"), None);
    }

    #[test]
    fn only_present_pages_have_a_frame() {
        assert_eq!(pfn(&(1u64 << 63 | 77).to_le_bytes()), Some(77));
        assert_eq!(pfn(&77u64.to_le_bytes()), None);
    }
}
