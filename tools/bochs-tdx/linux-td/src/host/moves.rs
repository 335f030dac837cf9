// SPDX-License-Identifier: GPL-2.0
//! What the host does to the TD's memory.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context;
use privmemctl::memory::{Census, MemoryMap};
use privmemctl::offline::{take_offline, Refused};
use privmemctl::owners::{reach, scan};
use privmemfd_ioctls::{PrivMemFd, Refusal};

/// Longest wait for one memory block to go offline.
const OFFLINE_LIMIT: Duration = Duration::from_secs(20);

/// Bytes that are moved by one request.
const SLICE: u64 = 16 << 20;

/// As far as a TD of these sizes has memory. A VMM may make a file as large as an address
/// can be, with the memory where it is for the guest.
const REACH: u64 = 4 << 30;

fn size(file: &PrivMemFd) -> anyhow::Result<u64> {
    Ok(file.stat()?.size.min(REACH))
}

/// A part of a round.
pub enum Step {
    /// A part of a file is moved on request.
    Move(usize, Range<u64>),
    /// All zones are compacted.
    Compact,
    /// A memory block goes offline and back.
    Offline(u64),
}

/// What became of a memory block with pages of the TD.
pub enum Block {
    /// It went offline without them and came back.
    Offlined,
    /// It did not go, and why.
    Stayed(u64, String),
}

/// The files that hold a VM's memory.
pub struct Memory(Vec<PrivMemFd>);

/// What has happened to all of them.
#[derive(Debug, Default, Clone)]
pub struct Counters {
    /// Pages that have memory.
    pub pages: u64,
    /// Relocations done.
    pub relocated: u64,
    /// Moves that did not happen, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

impl Memory {
    /// Those that a process has open.
    ///
    /// # Errors
    /// The process cannot be looked into.
    pub fn of(pid: i32) -> anyhow::Result<Self> {
        let owners = scan().context("cannot look for files")?;
        let mine = owners.iter().filter(|o| o.pid == pid);
        Ok(Self(
            mine.map(|o| reach(o.pid, o.fd))
                .collect::<anyhow::Result<_>>()?,
        ))
    }

    /// How many there are.
    pub fn files(&self) -> usize {
        self.0.len()
    }

    /// Adds up their counters.
    ///
    /// # Errors
    /// A file does not tell.
    pub fn counters(&self) -> anyhow::Result<Counters> {
        let mut sum = Counters::default();
        for file in &self.0 {
            let s = file.stat()?;
            sum.pages += s.pages;
            sum.relocated += s.relocated;
            for r in Refusal::ALL {
                let n = s.refused_for(r);
                if n > 0 {
                    *sum.refused.entry(r.name()).or_default() += n;
                }
            }
        }
        Ok(sum)
    }

    /// How many pages are in each memory block.
    ///
    /// # Errors
    /// There are no memory blocks, or a file does not tell.
    pub fn census(&self) -> anyhow::Result<(MemoryMap, Census)> {
        let map = MemoryMap::read().context("this kernel has no memory blocks")?;
        let mut frames = Vec::new();
        for file in &self.0 {
            frames.extend(file.pages(0..size(file)?)?);
        }
        let census = map.count(&frames);
        Ok((map, census))
    }

    /// What one round does: all that there is is moved on request, then compacted, then each
    /// movable block with pages in it goes offline and back.
    ///
    /// # Errors
    /// As [`Memory::census`].
    pub fn round(&self) -> anyhow::Result<Vec<Step>> {
        let mut steps = Vec::new();
        for (file, f) in self.0.iter().enumerate() {
            let size = size(f)?;
            let starts = (0..size).step_by(SLICE as usize);
            steps.extend(starts.map(|at| Step::Move(file, at..size.min(at + SLICE))));
        }
        steps.push(Step::Compact);
        let (map, census) = self.census()?;
        let blocks = census
            .keys()
            .filter(|index| map.block(**index).is_movable());
        steps.extend(blocks.map(|index| Step::Offline(*index)));
        Ok(steps)
    }

    /// Does one step. The answer is what became of a block; other steps have none.
    ///
    /// # Errors
    /// The kernel refuses for another reason than that something else works on a page; a
    /// block is offline with pages in it, does not come back, or stays for a page of the TD.
    pub fn step(&self, step: &Step) -> anyhow::Result<Option<Block>> {
        match step {
            Step::Move(file, range) => match self.0[*file].move_range(range.clone(), None) {
                Err(e) if e.errno() != libc::EAGAIN && e.errno() != libc::EBUSY => {
                    Err(e).context("a move was refused")
                }
                _ => Ok(None),
            },
            Step::Compact => {
                fs::write("/proc/sys/vm/compact_memory", "1").context("cannot compact memory")?;
                Ok(None)
            }
            Step::Offline(index) => {
                let block = self.census()?.0.block(*index);
                let end = Instant::now() + OFFLINE_LIMIT;
                if let Err(refused) = take_offline(&block, Some(end), || {}) {
                    let why = self.why(&refused);
                    let why = why.with_context(|| format!("memory{index} does not go offline"))?;
                    return Ok(Some(Block::Stayed(*index, why)));
                }
                let left = self.census()?.1.get(index).copied().unwrap_or(0);
                anyhow::ensure!(
                    left == 0,
                    "memory{index} is offline with {left} pages in it"
                );
                block
                    .set_state("online_movable")
                    .with_context(|| format!("memory{index} does not come back"))?;
                Ok(Some(Block::Offlined))
            }
        }
    }
    /// What has kept a block.
    fn why(&self, refused: &Refused) -> anyhow::Result<String> {
        Ok(match refused {
            Refused::OutOfTime => format!("it took longer than {} s", OFFLINE_LIMIT.as_secs()),
            Refused::Kernel(e, None) => e.to_string(),
            Refused::Kernel(e, Some((pfn, why))) => {
                for file in &self.0 {
                    let pages = file.pages(0..size(file)?)?;
                    anyhow::ensure!(
                        !pages.contains(&Some(*pfn)),
                        "the TD's frame {pfn:#x}: {why}"
                    );
                }
                format!("{e}: frame {pfn:#x}, not the TD's: {why}")
            }
        })
    }
}
