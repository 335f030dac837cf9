// SPDX-License-Identifier: GPL-2.0
//! Free pages that no huge page is made of, for they are on the lists of CPUs.

use std::io;
use std::path::Path;

use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

use crate::hog::{HogProcess, Plan};

/// Has each CPU that the calling thread may run on put the pages on its lists back to where the
/// zones of `node` make larger pieces of them; `size` is what is free there, in pieces that are too
/// small. `program` is the demonstration's.
///
/// What a CPU frees last stays on its list, and compaction does not put it back. That may be pages
/// that lie far apart: one that a vCPU has held while it moved is freed by that vCPU's CPU. Few of
/// them spoil as many huge pages. A process that takes single pages gets these first, then what
/// they have left in pieces, and at last neighbours, out of a large piece. When it ends it gives them
/// back in the same order, and the neighbours are what stays on the list.
pub fn put_back(program: &Path, node: u32, size: u64) -> io::Result<()> {
    let before = sched_getaffinity(None)?;
    let result = (0..CpuSet::MAX_CPU)
        .filter(|cpu| before.is_set(*cpu))
        .try_for_each(|cpu| {
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(None, &one)?;
            HogProcess::start(program, &Plan::Single { node, size }).map(drop)
        });
    sched_setaffinity(None, &before)?;
    result
}
