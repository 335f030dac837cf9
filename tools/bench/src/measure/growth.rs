// SPDX-License-Identifier: GPL-2.0
//! The same move while something grows that it must not depend on.

use std::os::fd::AsFd;

use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd};
use selftests::fixtures::MIB;
use vmm::layout::PRIVATE_BASE;
use vmm::{Vm, VmType};

use super::{per_page, timed, Bench};
use crate::report::Growth;

/// What is moved.
const PART: u64 = 8 * MIB;
const ROUNDS: usize = 3;
/// MiB of the files.
const FILES: [u64; 4] = [64, 256, 1024, 3072];
/// VMs that have nothing to do with the file.
const VMS: [usize; 3] = [0, 8, 32];

fn cost(fd: &PrivMemFd, size: u64) -> anyhow::Result<f64> {
    // From the middle, and not the first round: that one meets cold caches.
    let part = size / 2 - PART / 2..size / 2 + PART / 2;
    fd.move_range(part.clone(), None)?;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (moved, took) = timed(|| Ok(fd.move_range(part.clone(), None)?))?;
        best = best.min(per_page(took, moved));
    }
    Ok(best)
}

fn populated(size: u64) -> anyhow::Result<PrivMemFd> {
    let fd = Device::open()?.create(size, Options::new(Mobility::Movable))?;
    fd.allocate(0..size)?;
    Ok(fd)
}

/// A VM with private memory of its own.
fn other_vm() -> anyhow::Result<Vm> {
    let vm = Vm::new(VmType::SwProtected)?;
    let memory = populated(MIB)?;
    vm.bind_private(1, PRIVATE_BASE..PRIVATE_BASE + MIB, memory.as_fd(), 0)?;
    Ok(vm)
}

/// The file, and the number of VMs.
pub fn growth(bench: &mut Bench) -> anyhow::Result<Vec<Growth>> {
    let mut files = Vec::new();
    for mib in FILES {
        match populated(mib * MIB) {
            Ok(fd) => files.push((mib, cost(&fd, mib * MIB)?)),
            Err(e) => bench.note(format!("no file of {mib} MiB: {e:#}")),
        }
    }
    let size = FILES[0] * MIB;
    let fd = populated(size)?;
    let mut vms = Vec::new();
    let mut points = Vec::new();
    'more: for count in VMS {
        while vms.len() < count {
            match other_vm() {
                Ok(vm) => vms.push(vm),
                Err(e) => {
                    bench.note(format!("no more than {} VMs: {e:#}", vms.len()));
                    break 'more;
                }
            }
        }
        points.push((count as u64, cost(&fd, size)?));
    }
    Ok(vec![
        Growth::new("moving 8 MiB of a file of n MiB", files),
        Growth::new("the same with n VMs beside", points),
    ])
}
