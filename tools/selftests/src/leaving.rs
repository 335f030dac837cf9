// SPDX-License-Identifier: GPL-2.0
//! A guest that does nothing but leave and come back, on one CPU: for programs that try an
//! emulator (Documentation/testing.rst, "Why QEMU 10.2").

use std::io;

use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use vmm::guest::Entry;
use vmm::{Exit, Vcpu};

/// Restricts the calling thread to one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Two CPUs of those that the calling thread may use.
pub fn two_cpus() -> io::Result<[usize; 2]> {
    let may = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| may.is_set(cpu));
    match (cpus.next(), cpus.next()) {
        (Some(one), Some(other)) => Ok([one, other]),
        _ => Err(io::Error::other("needs two CPUs")),
    }
}

/// Has the guest leave again and again, until its [`Stop`](vmm::guest::Field::Stop) is set.
pub fn leave(cpu: usize, mut vcpu: Vcpu) -> io::Result<()> {
    pin(cpu)?;
    let control = vcpu.control().address();
    match vcpu.call(Entry::Leave, [control, 0, 0])? {
        Exit::Done(_) => Ok(()),
        other => Err(io::Error::other(format!("the guest ended with {other:?}"))),
    }
}
