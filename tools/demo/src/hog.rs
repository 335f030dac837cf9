// SPDX-License-Identifier: GPL-2.0
//! Memory that gets in the way: taken on one node, given back in holes. It
//! belongs to a child process: here, every page given back would interrupt the
//! vCPUs, which share this process's address space.

use std::fs;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use privmemctl::memory::own_frames;
use privmemctl::node_mask::NodeMask;
use rustix::mm::{madvise, mmap_anonymous, munmap, Advice, MapFlags, ProtFlags};

const PAGE: usize = 4096;
/// Bytes of a huge page.
pub const HUGE: u64 = 2 << 20;
const CHUNK: usize = HUGE as usize;
/// Longest time to fill a node.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a child process does with memory.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Plan {
    /// Leave only some bytes of a node free, and what is free in a CMA area
    Fill {
        /// NUMA node
        node: u32,
        /// Bytes that stay free
        spare: u64,
        /// First page frame of the CMA area
        from: u64,
        /// End of these page frames
        to: u64,
    },
    /// Take memory and give back every other page
    Holes {
        /// NUMA node
        node: u32,
        /// Bytes
        size: u64,
    },
    /// Take every huge page that can be had; again for each line of standard input
    Huge {
        /// NUMA node
        node: u32,
    },
}

impl Plan {
    fn arguments(&self) -> Vec<String> {
        let (name, numbers) = match *self {
            Plan::Fill {
                node,
                spare,
                from,
                to,
            } => ("fill", vec![node.into(), spare, from, to]),
            Plan::Holes { node, size } => ("holes", vec![node.into(), size]),
            Plan::Huge { node } => ("huge", vec![node.into()]),
        };
        let numbers = numbers.into_iter().map(|n: u64| n.to_string());
        std::iter::once(name.into()).chain(numbers).collect()
    }
}

/// The child process; ends when this is dropped.
#[derive(Debug)]
pub struct HogProcess {
    child: Child,
    answers: Lines<BufReader<ChildStdout>>,
}

impl HogProcess {
    /// Starts it, of the demonstration's `program`, and waits until it did what it is for; also returns how many pages, of
    /// [`HUGE`] bytes with [`Plan::Huge`], it has.
    pub fn start(program: &Path, plan: &Plan) -> io::Result<(Self, u64)> {
        let mut child = Command::new(program)
            .arg("hog")
            .args(plan.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().expect("it is a pipe");
        let answers = BufReader::new(out).lines();
        let mut this = Self { child, answers };
        let pages = this.answer()?;
        Ok((this, pages))
    }

    /// Does it again; returns how many pages that gave.
    pub fn again(&mut self) -> io::Result<u64> {
        let stdin = self.child.stdin.as_mut().expect("it is a pipe");
        stdin.write_all(b"\n")?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<u64> {
        let line = self.answers.next().transpose()?.unwrap_or_default();
        line.parse()
            .map_err(|_| io::Error::other("the process that takes memory ended early"))
    }
}

impl Drop for HogProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The child's side: does as planned and says how many pages it has, holds on until its
/// standard input ends.
pub fn child(plan: &Plan) -> io::Result<()> {
    // If memory runs out, then by our fault.
    fs::write("/proc/self/oom_score_adj", "1000")?;
    let mut hog = Hog { chunks: Vec::new() };
    let mut requests = io::stdin().lines();
    loop {
        let pages = match plan {
            Plan::Fill {
                node,
                spare,
                from,
                to,
            } => hog.fill(*node, *spare, &(*from..*to))?,
            Plan::Holes { node, size } => hog.holes(*node, *size)?,
            Plan::Huge { node } => hog.huge(*node)?,
        };
        println!("{pages}");
        if requests.next().transpose()?.is_none() {
            return Ok(());
        }
    }
}

/// Anonymous memory on one node, all of it present.
#[derive(Debug)]
struct Hog {
    chunks: Vec<Chunk>,
}

/// Where memory comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// This node; whoever asks for more than it has is killed.
    Only(u32),
    /// This node, or another if it has none. A huge page for which nobody reclaims never comes
    /// from another.
    First(u32),
}

impl Source {
    /// Mode and nodes of such a policy.
    fn policy(self) -> (libc::c_long, NodeMask) {
        const MPOL_PREFERRED: libc::c_long = 1;
        const MPOL_BIND: libc::c_long = 2;
        match self {
            Source::Only(node) => (MPOL_BIND, NodeMask::of(node)),
            Source::First(node) => (MPOL_PREFERRED, NodeMask::of(node)),
        }
    }
}

/// Memory as large as a huge page, at an address where it can be one; goes when this is dropped.
#[derive(Debug)]
pub struct Chunk(*mut u8);

impl Chunk {
    /// All of it present, in single pages.
    pub fn of_single_pages(from: Source) -> io::Result<Self> {
        let chunk = Self::new(from, Advice::LinuxNoHugepage)?;
        chunk.touch(0..CHUNK);
        Ok(chunk)
    }

    /// Without memory yet. The policy is the chunk's, not that of the page tables for it: in a
    /// CMA area of the node there may be room for what can move, when there is none for them.
    fn new(from: Source, advice: Advice) -> io::Result<Self> {
        // The kernel puts a mapping of this size or more where huge pages fit.
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
        let (mode, nodes) = from.policy();
        let (mask, maxnode) = (nodes.as_ptr(), NodeMask::MAXNODE);
        // SAFETY: the kernel reads the mask, and no more; nothing relies on the chunk's content.
        let bound =
            unsafe { libc::syscall(libc::SYS_mbind, chunk.0, CHUNK, mode, mask, maxnode, 0) };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        chunk.advise(0..CHUNK, advice)?;
        Ok(chunk)
    }

    fn touch(&self, part: Range<usize>) {
        assert!(part.end <= CHUNK);
        for offset in part.step_by(PAGE) {
            // SAFETY: inside the mapping, which nothing else refers to.
            unsafe { self.0.add(offset).write_volatile(1) };
        }
    }

    /// The page frame of each of its pages, or none. Needs root.
    pub fn frames(&self) -> io::Result<Vec<Option<u64>>> {
        own_frames(self.0 as u64, CHUNK / PAGE)
    }

    /// Gives back the pages whose frames are like this; returns how many are left. Needs root.
    pub fn give_back(&self, which: impl Fn(u64) -> bool) -> io::Result<u64> {
        let mut left = 0;
        for (i, frame) in self.frames()?.into_iter().enumerate() {
            if frame.is_some_and(&which) {
                self.advise(i * PAGE..(i + 1) * PAGE, Advice::LinuxDontNeed)?;
            } else {
                left += u64::from(frame.is_some());
            }
        }
        Ok(left)
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
    /// Takes memory of a node, in huge pages where there are any: it is a matter of speed;
    /// then gives back what lies in the CMA area. Not before: the kernel would take the
    /// same again.
    fn fill(&mut self, node: u32, spare: u64, area: &Range<u64>) -> io::Result<u64> {
        let start = Instant::now();
        loop {
            let free = free_on(node)?;
            if free <= spare + HUGE {
                break;
            }
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other(format!(
                    "{free} bytes of node {node} are still free after {PATIENCE:?}"
                )));
            }
            let chunk = Chunk::new(Source::Only(node), Advice::LinuxHugepage)?;
            chunk.touch(0..CHUNK);
            self.chunks.push(chunk);
        }
        let mut taken = 0;
        for chunk in &self.chunks {
            taken += chunk.give_back(|frame| area.contains(&frame))?;
        }
        Ok(taken)
    }

    /// Takes so much of a node in single pages and gives back those of odd frames. The next
    /// pages that anybody takes go there; when the others are free too, compaction finds
    /// them: where it has found no free page for some time it looks at every 32nd frame
    /// only.
    fn holes(&mut self, node: u32, size: u64) -> io::Result<u64> {
        for _ in 0..size.div_ceil(HUGE) {
            self.chunks
                .push(Chunk::of_single_pages(Source::Only(node))?);
        }
        let mut taken = 0;
        for chunk in &self.chunks {
            taken += chunk.give_back(|frame| frame % 2 == 1)?;
        }
        Ok(taken)
    }

    /// Takes huge pages of a node until there is none. The single page that comes instead may
    /// be of any node: this one has by then nothing left above its watermarks.
    fn huge(&mut self, node: u32) -> io::Result<u64> {
        let mut taken = 0;
        loop {
            let chunk = Chunk::new(Source::First(node), Advice::LinuxHugepage)?;
            chunk.touch(0..PAGE);
            // Only a huge page is there as a whole.
            if chunk.frames()?.iter().any(Option::is_none) {
                return Ok(taken);
            }
            taken += 1;
            self.chunks.push(chunk);
        }
    }
}

/// Free bytes on a node that are not in a CMA area.
fn free_on(node: u32) -> io::Result<u64> {
    parse_free(&fs::read_to_string("/proc/zoneinfo")?, node)
        .map(|pages| pages * PAGE as u64)
        .ok_or_else(|| io::Error::other("/proc/zoneinfo has no such node"))
}

/// Sum over the node's zones, which begin with `Node 0, zone   Normal`.
fn parse_free(text: &str, node: u32) -> Option<u64> {
    let (mut here, mut free, mut cma, mut zones) = (false, 0, 0, 0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Node ") {
            here = rest.split(',').next()? == node.to_string();
            zones += u64::from(here);
        }
        let mut words = line.split_whitespace();
        let sum = match words.next() {
            Some("nr_free_pages") if here => &mut free,
            Some("nr_free_cma") if here => &mut cma,
            _ => continue,
        };
        *sum += words.next()?.parse::<u64>().ok()?;
    }
    (zones > 0).then_some(free - cma)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_that_of_all_zones_of_a_node_without_cma() {
        let text = "Node 0, zone    DMA32\n  pages free     7\n      nr_free_pages 7\n      nr_free_cma  0\n\
                    Node 0, zone   Normal\n      nr_free_pages 50\n      nr_free_cma  30\n\
                    Node 1, zone  Movable\n      nr_free_pages 1000\n      nr_free_cma  0\n";
        assert_eq!(parse_free(text, 0), Some(27));
        assert_eq!(parse_free(text, 1), Some(1000));
        assert_eq!(parse_free(text, 2), None);
    }
}
