// SPDX-License-Identifier: GPL-2.0
//! The measurements. Each skips, with a note, what this machine cannot do.

mod growth;
mod held;
mod offline;
mod pause;
mod populate;
mod request;
mod tdx;
mod threads;

pub use growth::{growth, sizes};
pub use held::held;
pub use offline::offline;
pub use pause::pauses;
pub use populate::populate;
pub use request::{request, request_mapped};
pub use tdx::tdx;
pub use threads::threads;

use std::time::Duration;

use privmemctl::memory::MemoryMap;
use rustix::time::{clock_gettime, ClockId};
use selftests::fixtures::{MIB, PAGE};

use crate::profile::Profiler;
use privmemfd_bench::report::Unit;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// MiB that each side moves or populates in a round.
    pub mib: u64,
    /// Rounds.
    pub rounds: u64,
    /// What the clock counts.
    pub unit: Unit,
}

impl Amount {
    fn size(self) -> u64 {
        self.mib * MIB
    }

    /// Pages of a round.
    pub fn pages(self) -> u64 {
        self.size() / PAGE
    }
}

/// What measurements have in common.
pub struct Bench {
    /// How much.
    pub amount: Amount,
    /// What could not be measured.
    pub notes: Vec<String>,
    /// Where the instructions go, if that is asked for: its own come on top.
    pub profiler: Option<Profiler>,
}

impl Bench {
    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Runs and times `work`, with a profile of that name if there is to be one; `pages` says how
    /// many it has dealt with.
    fn profiled<T>(
        &mut self,
        name: &'static str,
        pages: impl FnOnce(&T) -> u64,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Duration)> {
        match &mut self.profiler {
            Some(profiler) => {
                let mut took = Duration::ZERO;
                let value = profiler.run(name, pages, || {
                    let (value, so_long) = timed(work)?;
                    took = so_long;
                    Ok(value)
                })?;
                Ok((value, took))
            }
            None => timed(work),
        }
    }
}

/// For how long this thread has had a CPU: where the clock counts instructions, these are its own and
/// those of the other CPU in the meantime, if it has anything to do. What it waits for does not count.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let start = cpu_time();
    let value = work()?;
    Ok((value, cpu_time() - start))
}

/// One nanosecond is one instruction where the clock counts instructions.
fn per_page(took: Duration, pages: u64) -> f64 {
    took.as_nanos() as f64 / pages as f64
}

/// Two nodes to move pages between.
fn two_nodes(bench: &mut Bench) -> anyhow::Result<Option<[u32; 2]>> {
    let nodes = MemoryMap::read()?.nodes();
    if let [a, b, ..] = nodes[..] {
        return Ok(Some([a, b]));
    }
    bench.note("one NUMA node only: there is nowhere to move to");
    Ok(None)
}
