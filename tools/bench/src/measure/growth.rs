// SPDX-License-Identifier: GPL-2.0
//! The same move while something grows that it must not depend on.

use std::fs;
use std::os::fd::AsFd;

use anyhow::Context;
use privmemfd_bench::report::Growth;
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd};
use selftests::fixtures::{MIB, PAGE};
use vmm::layout::PRIVATE_BASE;
use vmm::{Vcpu, Vm, VmType};

use super::offline::out_of_fullest;
use super::{per_page, timed, Bench};

/// What is moved.
const PART: u64 = 8 * MIB;
const ROUNDS: usize = 3;
/// MiB of the files.
const FILES: [u64; 5] = [64, 256, 1024, 3072, 12288];
/// VMs that have nothing to do with the file.
const VMS: [u64; 4] = [0, 8, 32, 64];
/// Memslots that the file is in.
const SLOTS: [u64; 3] = [1, 4, 16];
/// Files that have pages all over the block that goes offline.
const SHARERS: [u64; 4] = [1, 4, 16, 64];
/// Of all the files in a block: more than enough to fill one.
const BLOCK: u64 = 320 * MIB;

fn cost(fd: &PrivMemFd, size: u64) -> anyhow::Result<f64> {
    // Not the first round, which meets cold caches. The end: a file that is larger than a node has
    // pages of another there, while the node of this CPU is full.
    let part = size - PART..size;
    fd.move_range(part.clone(), None)?;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (moved, took) = timed(|| Ok(fd.move_range(part.clone(), None)?))?;
        best = best.min(per_page(took, moved));
    }
    Ok(best)
}

fn empty(size: u64) -> anyhow::Result<PrivMemFd> {
    Ok(Device::open()?.create(size, Options::new(Mobility::Movable))?)
}

pub fn populated(size: u64) -> anyhow::Result<PrivMemFd> {
    let fd = empty(size)?;
    fd.allocate(0..size)?;
    Ok(fd)
}

/// The larger the file, the higher the tree of its pages. Takes a machine with more memory than the
/// largest file, and not the rest of the time that the others take there.
pub fn sizes(bench: &mut Bench) -> anyhow::Result<Vec<Growth>> {
    let free = fs::read_to_string("/proc/meminfo")?;
    let free = free
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = free.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let free = free.context("/proc/meminfo has no MemAvailable")? / 1024;
    let mut points = Vec::new();
    for mib in FILES {
        if mib > free {
            bench.note(format!("no file of {mib} MiB: {free} MiB are available"));
            continue;
        }
        points.push((mib, cost(&populated(mib * MIB)?, mib * MIB)?));
    }
    Ok(vec![Growth::new("moving 8 MiB of a file of n MiB", points)])
}

/// A VM with private memory of its own.
fn other_vm() -> anyhow::Result<Vm> {
    let vm = Vm::new(VmType::SwProtected)?;
    let memory = populated(MIB)?;
    vm.bind_private(1, PRIVATE_BASE..PRIVATE_BASE + MIB, memory.as_fd(), 0)?;
    Ok(vm)
}

fn beside_vms(bench: &mut Bench) -> anyhow::Result<Growth> {
    let size = FILES[0] * MIB;
    let fd = populated(size)?;
    let mut vms = Vec::new();
    let mut points = Vec::new();
    'more: for count in VMS {
        while (vms.len() as u64) < count {
            match other_vm() {
                Ok(vm) => vms.push(vm),
                Err(e) => {
                    bench.note(format!("no more than {} VMs: {e:#}", vms.len()));
                    break 'more;
                }
            }
        }
        points.push((count, cost(&fd, size)?));
    }
    Ok(Growth::new("moving 8 MiB with n VMs beside", points))
}

/// A guest that has mapped all its memory, which is in so many memslots.
pub fn in_slots(fd: &PrivMemFd, size: u64, count: u64) -> anyhow::Result<(Vm, Vcpu)> {
    let vm = Vm::new(VmType::SwProtected)?;
    let part = size / count;
    for nr in 0..count {
        let at = PRIVATE_BASE + nr * part;
        vm.bind_private(nr as u32 + 1, at..at + part, fd.as_fd(), nr * part)?;
    }
    let vcpu = vm.vcpu(0)?;
    vcpu.prefault(PRIVATE_BASE..PRIVATE_BASE + size)?;
    Ok((vm, vcpu))
}

fn memslots() -> anyhow::Result<Growth> {
    let mut points = Vec::new();
    for count in SLOTS {
        let fd = populated(PART)?;
        let (_vm, vcpu) = in_slots(&fd, PART, count)?;
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let (moved, took) = timed(|| Ok(fd.move_range(0..PART, None)?))?;
            best = best.min(per_page(took, moved));
            vcpu.prefault(PRIVATE_BASE..PRIVATE_BASE + PART)?;
        }
        points.push((count, best));
    }
    Ok(Growth::new("moving 8 MiB in n memslots, mapped", points))
}

/// Free memory is in runs of at most so many pages: 0 is as it comes.
fn fragmented() -> anyhow::Result<Growth> {
    let fd = populated(PART)?;
    let mut points = vec![(0, cost(&fd, PART)?)];
    // Each other page of what takes a good part of all memory.
    let comb = populated(2048 * MIB)?;
    for at in (0..2048 * MIB).step_by(2 * PAGE as usize) {
        comb.punch_hole(at..at + PAGE)?;
    }
    let rest = populated(1536 * MIB)?;
    points.push((1, cost(&fd, PART)?));
    drop((comb, rest));
    Ok(Growth::new(
        "moving 8 MiB, free memory in pieces of n pages",
        points,
    ))
}

/// Files that have their pages in turn.
fn sharers(count: u64) -> anyhow::Result<Vec<PrivMemFd>> {
    let size = BLOCK / count;
    let files = (0..count)
        .map(|_| empty(size))
        .collect::<Result<Vec<_>, _>>()?;
    const TURN: u64 = 16 * PAGE;
    for at in (0..size).step_by(TURN as usize) {
        for fd in &files {
            fd.allocate(at..(at + TURN).min(size))?;
        }
    }
    Ok(files)
}

fn files_in_block(bench: &mut Bench) -> anyhow::Result<Growth> {
    let mut points = Vec::new();
    let mut refused = Vec::new();
    for count in SHARERS {
        let files = sharers(count)?;
        let pfns = || {
            let mut all = Vec::new();
            for fd in &files {
                all.extend(fd.pages(0..BLOCK / count)?);
            }
            Ok(all)
        };
        match out_of_fullest(bench, "memory offline, our pages", pfns, &mut refused)? {
            Some(cost) => points.push((count, cost)),
            None => bench.note(format!("no block with pages of {count} files goes offline")),
        }
    }
    Ok(Growth::new("a page of a block with n files", points))
}

/// What may grow without a page costing more.
pub fn growth(bench: &mut Bench) -> anyhow::Result<Vec<Growth>> {
    let mut all = vec![
        beside_vms(bench)?,
        memslots()?,
        files_in_block(bench)?,
        fragmented()?,
    ];
    // A note says what could not be measured.
    all.retain(|g| !g.points.is_empty());
    Ok(all)
}
