// SPDX-License-Identifier: GPL-2.0
//! Where the instructions of a measurement go, by function.
//!
//! The kernel's software clock interrupts this thread every [`PERIOD`] ns, which are instructions
//! where the clock counts them, and notes the call chain. Where interrupts are off, what is
//! executed counts for the function that switches them on again: the emulated TDX module for the
//! one that makes the SEAMCALL.

mod symbols;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use perf_event::events::Software;
use perf_event::{Builder, SampleFlag, Sampler};
use privmemfd_ioctls::{Device, Mobility, Options};
use selftests::fixtures::{MIB, PAGE};

use privmemfd_bench::report::{Function, Profile};
use symbols::Symbols;

/// A sample takes some 5,000 itself. A prime, so as not to meet each page at the same place.
const PERIOD: u64 = 50_021;
/// Bytes for some 100,000 samples.
const BUFFER: usize = 32 << 20;
/// Marks in a call chain (`PERF_CONTEXT_*`) are above this.
const CONTEXT: u64 = -4095_i64 as u64;
/// Functions in a report.
const MOST: usize = 40;

/// What is known of one measurement.
#[derive(Default)]
struct Samples {
    pages: u64,
    /// How often a call chain was met, the innermost function first.
    chains: HashMap<Vec<u64>, u64>,
}

/// Collects samples.
pub struct Profiler {
    folder: PathBuf,
    /// In the order in which they were first taken.
    taken: Vec<(&'static str, Samples)>,
    /// Instructions that a sample itself takes.
    overhead: f64,
}

fn sampler() -> anyhow::Result<Sampler> {
    let mut builder = Builder::new(Software::CPU_CLOCK);
    builder
        .include_kernel()
        .sample_period(PERIOD)
        .sample(SampleFlag::CALLCHAIN);
    let counter = builder.build().context("perf_event_open")?;
    counter.sampled(BUFFER).context("buffer for samples")
}

/// Runs `work` and hands its call chains to `chain`.
fn sampled<T>(work: impl FnOnce() -> T, mut chain: impl FnMut(&[u64])) -> anyhow::Result<T> {
    let mut sampler = sampler()?;
    sampler.enable()?;
    let value = work();
    sampler.disable()?;
    while let Some(record) = sampler.next_record() {
        match record.parse_record()? {
            perf_event::data::Record::Sample(sample) => {
                chain(sample.callchain().unwrap_or_default());
            }
            perf_event::data::Record::Lost(_) => anyhow::bail!("more samples than buffer"),
            _ => {}
        }
    }
    Ok(value)
}

impl Profiler {
    /// Writes to files in `folder`.
    pub fn new(folder: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self {
            folder,
            taken: Vec::new(),
            overhead: overhead()?,
        })
    }

    /// Runs `work`, which says how many pages it has dealt with.
    pub fn run<T>(
        &mut self,
        name: &'static str,
        pages: impl FnOnce(&T) -> u64,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut chains = Vec::new();
        let value = sampled(work, |chain| chains.push(chain.to_vec()))??;
        let at = match self.taken.iter().position(|(known, _)| *known == name) {
            Some(at) => at,
            None => {
                self.taken.push((name, Samples::default()));
                self.taken.len() - 1
            }
        };
        let samples = &mut self.taken[at].1;
        samples.pages += pages(&value);
        for chain in chains {
            *samples.chains.entry(chain).or_default() += 1;
        }
        Ok(value)
    }

    /// Names the functions, and writes for each measurement the stacks in the format that flame
    /// graphs are made of.
    pub fn report(self) -> anyhow::Result<Vec<Profile>> {
        let symbols = Symbols::read()?;
        let worth = PERIOD as f64 - self.overhead;
        let mut reports = Vec::new();
        for (name, samples) in &self.taken {
            let mut stacks = HashMap::<Vec<String>, u64>::new();
            for (chain, count) in &samples.chains {
                let kernel = chain.iter().filter(|at| **at < CONTEXT);
                let mut stack: Vec<_> = kernel.map(|at| symbols.name(*at)).collect();
                stack.reverse();
                *stacks.entry(stack).or_default() += count;
            }
            let mut lines: Vec<_> = stacks
                .iter()
                .map(|(stack, count)| format!("{} {count}\n", stack.join(";")))
                .collect();
            lines.sort();
            let file = format!("{}.folded", name.replace(['\'', ','], "").replace(' ', "-"));
            fs::write(self.folder.join(file), lines.concat())?;
            let per_sample = worth / samples.pages as f64;
            reports.push(profile(name, per_sample, &stacks, MOST));
        }
        Ok(reports)
    }
}

/// From stacks, the outermost function first, and how many instructions of a page a sample is.
fn profile(
    name: &'static str,
    per_sample: f64,
    stacks: &HashMap<Vec<String>, u64>,
    most: usize,
) -> Profile {
    let mut costs = HashMap::<&str, (u64, u64)>::new();
    for (stack, count) in stacks {
        for (depth, function) in stack.iter().enumerate() {
            let cost = costs.entry(function).or_default();
            if depth + 1 == stack.len() {
                cost.0 += count;
            }
            // Once, also of one that calls itself.
            if !stack[..depth].contains(function) {
                cost.1 += count;
            }
        }
    }
    let mut functions: Vec<_> = costs
        .into_iter()
        .filter(|(_, (own, _))| *own > 0)
        .map(|(function, (own, all))| Function {
            name: function.into(),
            own_per_page: own as f64 * per_sample,
            with_callees_per_page: all as f64 * per_sample,
        })
        .collect();
    functions.sort_by(|a, b| {
        let order = b.own_per_page.total_cmp(&a.own_per_page);
        order.then_with(|| a.name.cmp(&b.name))
    });
    functions.truncate(most);
    let samples = stacks.values().sum();
    Profile {
        name: name.into(),
        samples,
        per_page: samples as f64 * per_sample,
        functions,
    }
}

/// Instructions that a sample takes: of the same move with samples and without.
fn overhead() -> anyhow::Result<f64> {
    let size = 16 * MIB;
    let fd = Device::open()?.create(size, Options::new(Mobility::Movable))?;
    fd.allocate(0..size)?;
    let moved = || -> anyhow::Result<Duration> {
        let start = Instant::now();
        let pages = fd.move_range(0..size, None)?;
        anyhow::ensure!(pages == size / PAGE, "{pages} pages moved");
        Ok(start.elapsed())
    };
    moved()?;
    let without = moved()?;
    let mut samples = 0_u64;
    let with = sampled(moved, |_| samples += 1)??;
    // Before the kernel trusts its clock, timers only fire with the tick.
    let expected = without.as_nanos() as u64 / PERIOD;
    anyhow::ensure!(
        samples >= expected / 2,
        "{samples} samples instead of {expected}: this clock does not interrupt when it is told to"
    );
    let more = with.saturating_sub(without).as_nanos() as f64;
    Ok(more / samples.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn a_function_has_its_own_cost_and_that_of_its_callees() {
        let stacks = HashMap::from([
            (stack(&["outer", "inner"]), 3),
            (stack(&["outer"]), 1),
            (stack(&["outer", "outer"]), 2),
        ]);
        let profile = profile("x", 10.0, &stacks, 9);
        assert_eq!((profile.samples, profile.per_page), (6, 60.0));
        let of = |name| {
            let mut all = profile.functions.iter();
            let f = all.find(|f| f.name == name).unwrap();
            (f.own_per_page, f.with_callees_per_page)
        };
        assert_eq!(of("outer"), (30.0, 60.0));
        assert_eq!(of("inner"), (30.0, 30.0));
    }
}
