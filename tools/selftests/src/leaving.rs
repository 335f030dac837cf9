// SPDX-License-Identifier: GPL-2.0
//! A guest that does nothing but leave and come back, on one CPU: for programs that try an
//! emulator (Documentation/testing.rst, "Why QEMU 10.2").

use std::io;
use std::time::Duration;

use rustix::thread::{sched_setaffinity, CpuSet};
use vmm::guest::Entry;
use vmm::{Exit, Vcpu};

/// What such a program is told: SECONDS CPU.
pub fn arguments() -> Option<(Duration, usize)> {
    let mut arguments = std::env::args().skip(1).map(|s| s.parse().ok());
    let (Some(seconds), Some(cpu), None) = (arguments.next()?, arguments.next()?, arguments.next())
    else {
        return None;
    };
    Some((Duration::from_secs(seconds), cpu as usize))
}

/// Restricts the calling thread to one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
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
