// SPDX-License-Identifier: GPL-2.0
//! `privmemfd-bench`: what a relocated page and a populated page cost, beside
//! a mapped memfd page's migration and upstream guest_memfd in the same run.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{bail, Context};
use clap::Parser;
use privmemctl::memory::MemoryMap;
use privmemfd_ioctls::{Device, Mobility, Options};
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use selftests::fixtures::{MIB, PAGE};
use selftests::hostmem::movable_blocks;
use serde::Serialize;
use vmm::{Vm, VmType};

/// Measure what moving and populating private memory costs.
///
/// Each figure is the median over rounds in which the two sides of a ratio
/// take turns, so that both see the same machine.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// MiB that each side moves or populates in a round
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1024))]
    mib: u64,
    /// Rounds
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Two things measured in turn, in nanoseconds per page.
#[derive(Debug, Serialize)]
struct Pair {
    name: &'static str,
    ours: &'static str,
    theirs: &'static str,
    ours_ns_per_page: f64,
    theirs_ns_per_page: f64,
    /// Median of the rounds' ratios: below 1 ours is cheaper.
    ratio: f64,
    rounds: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    backend: &'static str,
    pages: u64,
    pairs: Vec<Pair>,
    notes: Vec<String>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

fn pair(
    name: &'static str,
    (ours, theirs): (&'static str, &'static str),
    samples: &[(f64, f64)],
) -> Pair {
    Pair {
        name,
        ours,
        theirs,
        ours_ns_per_page: median(samples.iter().map(|s| s.0).collect()),
        theirs_ns_per_page: median(samples.iter().map(|s| s.1).collect()),
        ratio: median(samples.iter().map(|s| s.0 / s.1).collect()),
        rounds: samples.len(),
    }
}

fn per_page(took: Duration, pages: u64) -> f64 {
    took.as_nanos() as f64 / pages as f64
}

fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let start = Instant::now();
    let value = work()?;
    Ok((value, start.elapsed()))
}

/// A mapped memfd, all of it present.
struct Mapped {
    at: *mut u8,
    size: u64,
}

impl Mapped {
    fn new(size: u64) -> anyhow::Result<Self> {
        let fd = rustix::fs::memfd_create("bench", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, size)?;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping in a place of the kernel's choice.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                size as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                &fd,
                0,
            )?
        };
        let this = Self {
            at: at.cast(),
            size,
        };
        for offset in (0..size).step_by(PAGE as usize) {
            // SAFETY: inside the mapping, which nothing else refers to.
            unsafe { this.at.add(offset as usize).write_volatile(1) };
        }
        Ok(this)
    }

    /// Moves all pages to a node by move_pages(2).
    fn move_to(&self, node: u32) -> anyhow::Result<u64> {
        let count = (self.size / PAGE) as usize;
        let pages: Vec<*mut u8> = (0..count)
            .map(|i| self.at.wrapping_add(i * PAGE as usize))
            .collect();
        let nodes = vec![node as i32; count];
        let mut status = vec![0i32; count];
        const MOVE_ALL: i32 = 4;
        // SAFETY: three arrays of `count` elements, the last one writable.
        let r = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                count,
                pages.as_ptr(),
                nodes.as_ptr(),
                status.as_mut_ptr(),
                MOVE_ALL,
            )
        };
        if r < 0 {
            return Err(io::Error::last_os_error()).context("move_pages");
        }
        Ok(status.iter().filter(|s| **s == node as i32).count() as u64)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing refers to any more.
        let _ = unsafe { munmap(self.at.cast(), self.size as usize) };
    }
}

fn moving(cli: &Cli, notes: &mut Vec<String>) -> anyhow::Result<Option<Pair>> {
    let nodes = MemoryMap::read()?.nodes();
    let [a, b, ..] = nodes[..] else {
        notes.push("one NUMA node only: move_pages(2) has nowhere to move to".into());
        return Ok(None);
    };
    let size = cli.mib * MIB;
    let pages = size / PAGE;
    let ours = Device::open()?.create(size, Options::new(Mobility::Movable).node(a))?;
    ours.allocate(0..size)?;
    let theirs = Mapped::new(size)?;
    ours.move_range(0..size, Some(a))?;
    theirs.move_to(a)?;
    let mut samples = Vec::new();
    for round in 0..cli.rounds {
        let node = if round % 2 == 0 { b } else { a };
        let (moved, t) = timed(|| Ok(ours.move_range(0..size, Some(node))?))?;
        let (arrived, u) = timed(|| theirs.move_to(node))?;
        if moved != pages || arrived != pages {
            bail!("{moved} and {arrived} of {pages} pages moved");
        }
        samples.push((per_page(t, pages), per_page(u, pages)));
    }
    Ok(Some(pair(
        "move on request",
        ("PRIVMEMFD_MOVE", "move_pages(2) of a mapped memfd"),
        &samples,
    )))
}

/// Offlines the block that holds most of the file, twice: with the file in it
/// and, as soon as its pages are away, once more.
fn offlining(cli: &Cli, notes: &mut Vec<String>) -> anyhow::Result<Option<Pair>> {
    let size = cli.mib * MIB;
    let ours = Device::open()?.create(size, Options::new(Mobility::Movable))?;
    ours.allocate(0..size)?;
    let nodes = MemoryMap::read()?.nodes();
    let mut samples = Vec::new();
    for _ in 0..cli.rounds.min(5) {
        let blocks = movable_blocks(&ours, size);
        let Some((block, _)) = blocks.into_iter().max_by_key(|(_, pages)| *pages) else {
            notes.push("no page in ZONE_MOVABLE: nothing to take offline".into());
            return Ok(None);
        };
        let before = ours.stat()?.relocated;
        let offline = || -> anyhow::Result<Duration> {
            let (_, took) = timed(|| Ok(block.set_state("offline")?))?;
            block.set_state("online_movable")?;
            Ok(took)
        };
        let full = match offline() {
            Ok(took) => took,
            Err(e) => {
                notes.push(format!("memory{} refused to go offline: {e}", block.index));
                break;
            }
        };
        let moved = ours.stat()?.relocated - before;
        let empty = offline()?;
        if moved == 0 || nodes.is_empty() {
            continue;
        }
        let cost = per_page(full.saturating_sub(empty), moved);
        let theirs = Mapped::new(size)?;
        let Some(to) = nodes.iter().copied().find(|n| Some(*n) != block.node) else {
            notes.push("one NUMA node only: offlining has no comparison".into());
            return Ok(None);
        };
        theirs.move_to(block.node.unwrap_or(to))?;
        let (arrived, u) = timed(|| theirs.move_to(to))?;
        samples.push((cost, per_page(u, arrived.max(1))));
    }
    let names = (
        "memory offline, beyond an empty block",
        "move_pages(2) of a mapped memfd",
    );
    Ok((!samples.is_empty()).then(|| pair("move by the core", names, &samples)))
}

fn populating(cli: &Cli, notes: &mut Vec<String>) -> anyhow::Result<Option<Pair>> {
    let vm = match Vm::new(VmType::SwProtected) {
        Ok(vm) => vm,
        Err(e) => {
            notes.push(format!("no VM, so no guest_memfd to compare with: {e}"));
            return Ok(None);
        }
    };
    let size = cli.mib * MIB;
    let keep = FallocateFlags::KEEP_SIZE;
    let mut samples = Vec::new();
    for _ in 0..cli.rounds {
        let ours = Device::open()?.create(size, Options::new(Mobility::Movable))?;
        let theirs = vm.create_guest_memfd(size, 0)?;
        let link = fs::read_link(format!("/proc/self/fd/{}", theirs.as_raw_fd()))?;
        if link.to_string_lossy() == privmemfd_ioctls::LINK {
            notes.push("serve_all=1: every guest_memfd is ours, nothing to compare with".into());
            return Ok(None);
        }
        let (_, t) = timed(|| Ok(ours.allocate(0..size)?))?;
        let (_, u) = timed(|| Ok(rustix::fs::fallocate(theirs.as_fd(), keep, 0, size)?))?;
        samples.push((per_page(t, size / PAGE), per_page(u, size / PAGE)));
    }
    Ok(Some(pair(
        "populate",
        ("privmemfd fallocate", "upstream guest_memfd fallocate"),
        &samples,
    )))
}

fn run(cli: &Cli) -> anyhow::Result<Report> {
    let mut notes = Vec::new();
    let mut pairs = Vec::new();
    for measure in [moving, offlining, populating] {
        pairs.extend(measure(cli, &mut notes)?);
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(Report {
        kernel: release.trim().into(),
        backend: "software",
        pages: cli.mib * MIB / PAGE,
        pairs,
        notes,
    })
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let report = match run(&cli) {
        Ok(report) => report,
        Err(e) => {
            eprintln!("privmemfd-bench: {e:#}");
            return ExitCode::FAILURE;
        }
    };
    println!("{:<18} {:>12} {:>12} {:>7}", "", "ours", "theirs", "ratio");
    for p in &report.pairs {
        println!(
            "{:<18} {:>9.0} ns {:>9.0} ns {:>7.2}   {} / {}",
            p.name, p.ours_ns_per_page, p.theirs_ns_per_page, p.ratio, p.ours, p.theirs
        );
    }
    for note in &report.notes {
        println!("note: {note}");
    }
    if let Some(path) = &cli.json {
        let written = serde_json::to_string_pretty(&report)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(path, text + "\n"));
        if let Err(e) = written {
            eprintln!("privmemfd-bench: cannot write {}: {e}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_ratio_is_that_of_paired_rounds() {
        let p = pair("x", ("a", "b"), &[(1.0, 2.0), (10.0, 20.0), (3.0, 6.0)]);
        assert_eq!((p.ratio, p.ours_ns_per_page, p.rounds), (0.5, 3.0, 3));
    }
}
