// SPDX-License-Identifier: GPL-2.0
//! Relocations without pause below guests that write and verify all their memory, and
//! what the host has less of afterwards.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use selftests::fixtures::{movable, Guest};
use selftests::hostmem::compact;
use selftests::tdx::{Crew, Tdx};
use serde::{Deserialize, Serialize};

use crate::host::counter;
use crate::system::PAGE;

/// Pages of each guest.
const PAGES: u64 = 1024;
/// Requests between two compactions.
const ROUNDS: u64 = 16;
/// Samples of a phase.
const SAMPLES: u64 = 100;

/// What to do.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Pages to move of each backend.
    #[arg(long, default_value_t = 1_000_000)]
    pages: u64,
    /// Where to write samples and counts, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What the host has at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// Pages that have moved, of both backends.
    pub moved: u64,
    /// Seconds since the start.
    pub seconds: f64,
    /// KiB of kernel objects that nobody can take back (SUnreclaim).
    pub slab: u64,
    /// Pages of memory that are free.
    pub free: u64,
    /// Pages that are unevictable: those of the guests.
    pub unevictable: u64,
    /// Pages that the TDX module has kept.
    pub leaked: u64,
}

/// What is known after a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Result {
    /// Pages moved by the software backend.
    pub software: u64,
    /// Pages moved by the TDX backend.
    pub tdx: u64,
    /// Bytes that the guest of the software backend verified.
    pub verified: u64,
    /// Rounds of writing and verifying of the TD's vCPUs.
    pub td_rounds: u64,
    /// Wrong cells.
    pub mismatches: u64,
    /// Pages that the TDX module has kept.
    pub leaked: u64,
    /// Over time.
    pub samples: Vec<Sample>,
}

impl Result {
    /// Whether a sample is of the phase of the TDX backend, or of the other.
    pub fn is_of(&self, tdx: bool, sample: &Sample) -> bool {
        (sample.moved > self.software) == tdx
    }
}

/// A number of a file of "NAME NUMBER" lines.
fn number_in(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let value = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {path}"))
}

/// Has every cache of kernel objects give back what nobody uses: half-empty slabs, and
/// what KASAN keeps for a while of objects that are free (up to 1/32 of memory).
fn shrink_caches() {
    let caches = fs::read_dir("/sys/kernel/slab").expect("/sys/kernel/slab");
    for cache in caches.flatten().filter(|c| !c.path().is_symlink()) {
        // Not every cache can shrink.
        let _ = fs::write(cache.path().join("shrink"), "1");
    }
}

fn sample(moved: u64, start: Instant) -> Sample {
    shrink_caches();
    Sample {
        moved,
        seconds: start.elapsed().as_secs_f64(),
        slab: number_in("/proc/meminfo", "SUnreclaim:"),
        free: number_in("/proc/vmstat", "nr_free_pages "),
        unevictable: number_in("/proc/vmstat", "nr_unevictable "),
        leaked: counter("tdx_pages_kept"),
    }
}

/// Moves until so many pages have; contention is no failure, anything else is.
fn move_until(
    fd: &privmemfd_ioctls::PrivMemFd,
    goal: u64,
    samples: &mut Vec<Sample>,
    start: Instant,
    alive: impl Fn() -> bool,
) -> u64 {
    let before = samples.last().map_or(0, |s| s.moved);
    let mut next = 0;
    let done = || fd.stat().expect("STAT").relocated;
    for round in 0u64.. {
        let now = done();
        if now >= next {
            samples.push(sample(before + now, start));
            next = now + goal / SAMPLES;
        }
        if now >= goal {
            break;
        }
        if !alive() {
            println!("a vCPU has ended after {now} relocations");
            break;
        }
        match fd.move_range(0..PAGES * PAGE, None) {
            Ok(_) => {}
            Err(e) if matches!(e.errno(), libc::EAGAIN | libc::EBUSY) => {}
            Err(e) => panic!("{e} after {now} relocations"),
        }
        if round % ROUNDS == ROUNDS - 1 {
            compact();
        }
    }
    done()
}

/// Moves pages of a VM, then of a TD.
///
/// # Errors
///
/// The counts cannot be written. A wrong cell is a panic.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut samples = Vec::new();

    let fd = movable(PAGES * PAGE);
    let mut guest = Guest::new(&fd, 2);
    guest.fill();
    let crew = guest.run();
    let software = move_until(&fd, options.pages, &mut samples, start, || !crew.any_left());
    let progress = guest.end(crew);
    guest.verify();
    println!(
        "software: {software} relocations, guest verified {} bytes",
        progress.verified
    );
    ensure!(software >= options.pages, "the guest has ended early");
    drop((guest, fd));

    let tdx = Arc::new(Tdx::running(PAGES, 2));
    let crew = Crew::start(&tdx);
    let moved = move_until(&tdx.fd, options.pages, &mut samples, start, || {
        !crew.any_left()
    });
    let td_rounds = crew.end();
    tdx.verify();
    println!("tdx: {moved} relocations, {td_rounds} rounds of the TD");
    ensure!(moved >= options.pages, "the TD has ended early");
    drop(tdx);

    samples.push(sample(software + moved, start));
    let result = Result {
        software,
        tdx: moved,
        verified: progress.verified,
        td_rounds,
        mismatches: progress.mismatches,
        leaked: counter("tdx_pages_kept"),
        samples,
    };
    flat(&result)?;
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&result)? + "\n")?;
    }
    Ok(())
}

/// Growth over the second half of a phase that is noise: lists of free pages of each
/// CPU, slabs that are half empty. One page, or one object of 64 bytes, in a hundred
/// relocations of 10^6 would be 10,000 pages, or 640 KiB.
const PAGE_SLACK: i64 = 512;
const SLAB_SLACK: i64 = 384;

fn median(values: impl Iterator<Item = u64>) -> i64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).map_or(0, |v| *v as i64)
}

/// How much a number has grown from the second quarter of a phase to its last.
fn growth(phase: &[&Sample], value: impl Fn(&Sample) -> u64) -> i64 {
    let quarter = |n: usize| &phase[phase.len() * n / 4..phase.len() * (n + 1) / 4];
    let of = |n| median(quarter(n).iter().map(|s| value(s)));
    of(3) - of(1)
}

/// Whether the host has as much after a phase as at its beginning.
fn flat(result: &Result) -> anyhow::Result<()> {
    ensure!(result.leaked == 0, "{} pages leaked", result.leaked);
    for tdx in [false, true] {
        let all = result.samples.iter();
        let phase: Vec<&Sample> = all.filter(|s| result.is_of(tdx, s)).collect();
        let slab = growth(&phase, |s| s.slab);
        let free = growth(&phase, |s| s.free);
        let unevictable = growth(&phase, |s| s.unevictable);
        let backend = if tdx { "tdx" } else { "software" };
        println!("{backend}: slab {slab:+} KiB, free {free:+} pages, unevictable {unevictable:+}");
        ensure!(
            slab <= SLAB_SLACK,
            "{backend}: kernel objects grow by {slab} KiB"
        );
        ensure!(-free <= PAGE_SLACK, "{backend}: {} pages are gone", -free);
        ensure!(
            unevictable <= PAGE_SLACK,
            "{backend}: {unevictable} more unevictable pages"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(leak: u64) -> Result {
        let sample = |n: u64| Sample {
            moved: n,
            seconds: n as f64,
            slab: 10_000 + n % 7,
            free: 1_000_000 - n * leak,
            unevictable: 1024,
            leaked: 0,
        };
        Result {
            software: 1000,
            tdx: 1000,
            verified: 1,
            td_rounds: 1,
            mismatches: 0,
            leaked: 0,
            samples: (0..200).map(|n| sample(n * 10)).collect(),
        }
    }

    #[test]
    fn a_leak_is_not_flat() {
        flat(&result(0)).unwrap();
        assert!(flat(&result(2)).is_err());
        let kept = Result {
            leaked: 1,
            ..result(0)
        };
        assert!(flat(&kept).is_err());
    }
}
