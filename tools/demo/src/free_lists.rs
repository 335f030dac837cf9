// SPDX-License-Identifier: GPL-2.0
//! Free pages that no huge page is made of, for they are on the lists of CPUs.

use std::io;

use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

use crate::hog::{Chunk, Source, HUGE};

/// Has each CPU that the calling thread may run on put the pages on its lists back to where the
/// zones of `node` make larger pieces of them; `size` is what is free there, in pieces that are too
/// small.
///
/// What a CPU frees last stays on its list, and compaction does not put it back. That may be pages
/// that lie far apart: one that a vCPU has held while it moved is freed by that vCPU's CPU. Few of
/// them spoil as many huge pages. Who takes single pages gets these first, then what they have
/// left in pieces, and at last neighbours, out of a large piece. Given back in the same order, the
/// neighbours are what stays on the list. It is this process who takes them: a new one would have
/// got the first for itself, its stack and what it writes to, and have given them back last.
pub fn put_back(node: u32, size: u64) -> io::Result<()> {
    let before = sched_getaffinity(None)?;
    let result = (0..CpuSet::MAX_CPU)
        .filter(|cpu| before.is_set(*cpu))
        .try_for_each(|cpu| {
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(None, &one)?;
            take_and_give_back(node, size)
        });
    sched_setaffinity(None, &before)?;
    result
}

fn take_and_give_back(node: u32, size: u64) -> io::Result<()> {
    let taken: io::Result<Vec<_>> = (0..size.div_ceil(HUGE))
        .map(|_| Chunk::of_single_pages(Source::First(node)))
        .collect();
    // The first goes first.
    taken.map(drop)
}
