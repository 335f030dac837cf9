// SPDX-License-Identifier: GPL-2.0
//! Memory that gets in the way: taken on one node, given back in holes. It
//! belongs to a child process: here, every page given back would interrupt the
//! vCPUs, which share this process's address space.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::process::{Child, Command, Stdio};

use privmemctl::memory::own_frames;
use rustix::mm::{madvise, mmap_anonymous, munmap, Advice, MapFlags, ProtFlags};

const PAGE: usize = 4096;
const CHUNK: usize = 16 << 20;

/// What a child process does with memory.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Plan {
    /// Leave only some bytes of a node free, then also give back page frames
    Fill {
        /// NUMA node
        node: u32,
        /// Bytes that stay free
        spare: u64,
        /// First page frame to give back
        from: u64,
        /// End of these page frames
        to: u64,
    },
    /// Take memory and give every other page back
    Holes {
        /// NUMA node
        node: u32,
        /// Bytes
        size: u64,
    },
}

impl Plan {
    fn arguments(&self) -> Vec<String> {
        match self {
            Plan::Fill {
                node,
                spare,
                from,
                to,
            } => {
                vec![
                    "fill".into(),
                    node.to_string(),
                    spare.to_string(),
                    from.to_string(),
                    to.to_string(),
                ]
            }
            Plan::Holes { node, size } => {
                vec!["holes".into(), node.to_string(), size.to_string()]
            }
        }
    }
}

/// The child process; ends when this is dropped.
#[derive(Debug)]
pub struct HogProcess(Child);

impl HogProcess {
    /// Starts it and waits until it did what it is for.
    pub fn start(plan: &Plan) -> io::Result<Self> {
        let child = Command::new("/proc/self/exe")
            .arg("hog")
            .args(plan.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut this = Self(child);
        let mut line = String::new();
        if let Some(out) = this.0.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        if line.trim() != "ready" {
            return Err(io::Error::other(
                "the process that takes memory ended early",
            ));
        }
        Ok(this)
    }
}

impl Drop for HogProcess {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The child's side: does as planned, says so, holds on until its standard
/// input ends.
pub fn child(plan: &Plan) -> io::Result<()> {
    // If memory runs out, then by our fault.
    fs::write("/proc/self/oom_score_adj", "1000")?;
    let _hog = match plan {
        Plan::Fill {
            node,
            spare,
            from,
            to,
        } => {
            let hog = Hog::fill(*node, *spare)?;
            hog.release_frames(&(*from..*to))?;
            hog
        }
        Plan::Holes { node, size } => Hog::holes(*node, *size)?,
    };
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Anonymous memory on one node, all of it present.
#[derive(Debug)]
struct Hog {
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk(*mut u8);

impl Chunk {
    fn new(advice: Advice) -> io::Result<Self> {
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
        chunk.advise(0..CHUNK, advice)?;
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
    /// Takes memory of a node until only `spare` bytes of it are free, in huge
    /// pages where there are any: it is a matter of speed.
    fn fill(node: u32, spare: u64) -> io::Result<Self> {
        let mut hog = Self { chunks: Vec::new() };
        let _only_here = OnlyNode::new(node)?;
        while free_on(node)? > spare + CHUNK as u64 {
            hog.chunks.push(Chunk::new(Advice::LinuxHugepage)?);
        }
        Ok(hog)
    }

    /// Takes `size` bytes of a node in single pages and gives every other page
    /// back: the next pages that anybody takes go into these holes.
    fn holes(node: u32, size: u64) -> io::Result<Self> {
        let _only_here = OnlyNode::new(node)?;
        let chunks = (0..size.div_ceil(CHUNK as u64))
            .map(|_| Chunk::new(Advice::LinuxNoHugepage))
            .collect::<io::Result<_>>()?;
        let hog = Self { chunks };
        for chunk in &hog.chunks {
            for offset in (0..CHUNK).step_by(2 * PAGE) {
                chunk.advise(offset..offset + PAGE, Advice::LinuxDontNeed)?;
            }
        }
        Ok(hog)
    }

    /// Gives back the pages that lie in a range of page frames.
    fn release_frames(&self, frames: &Range<u64>) -> io::Result<()> {
        for chunk in &self.chunks {
            let places = own_frames(chunk.0 as u64, CHUNK / PAGE)?;
            for (i, pfn) in places.into_iter().enumerate() {
                if pfn.is_some_and(|pfn| frames.contains(&pfn)) {
                    chunk.advise(i * PAGE..(i + 1) * PAGE, Advice::LinuxDontNeed)?;
                }
            }
        }
        Ok(())
    }
}

/// Free bytes on a node.
fn free_on(node: u32) -> io::Result<u64> {
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
}
