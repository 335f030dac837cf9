// SPDX-License-Identifier: GPL-2.0
//! Several threads move pages at the same time, of one file or each of its own.
//!
//! Where the clock counts instructions, those of all CPUs count, spinning for a lock included, so a page
//! costs the same as long as no thread is in another's way.

use std::ops::Range;
use std::thread;
use std::time::Instant;

use privmemfd_bench::report::Growth;
use privmemfd_ioctls::PrivMemFd;
use selftests::fixtures::{MIB, PAGE};
use selftests::tdx::pin_to;
use vmm::{Vcpu, Vm};

use super::growth::{in_slots, populated};
use super::Bench;

/// What all threads together move.
const TOTAL: u64 = 32 * MIB;
const ROUNDS: usize = 3;
const THREADS: [u64; 3] = [1, 2, 4];

/// A file that a VM has mapped all of.
struct Guest {
    fd: PrivMemFd,
    _vm: Vm,
    vcpu: Vcpu,
}

impl Guest {
    fn new(size: u64) -> anyhow::Result<Self> {
        let fd = populated(size)?;
        let (vm, vcpu) = in_slots(&fd, size, 1)?;
        Ok(Self { fd, _vm: vm, vcpu })
    }
}

/// Units per page while each thread moves a part, all at once.
fn together(parts: &[(&PrivMemFd, Range<u64>)]) -> anyhow::Result<f64> {
    let cpus = thread::available_parallelism()?.get();
    let start = Instant::now();
    let moved = thread::scope(|scope| -> anyhow::Result<u64> {
        let threads: Vec<_> = parts
            .iter()
            .enumerate()
            .map(|(nr, (fd, part))| {
                scope.spawn(move || {
                    pin_to(nr % cpus);
                    fd.move_range(part.clone(), None)
                })
            })
            .collect();
        let mut moved = 0;
        for thread in threads {
            moved += thread.join().expect("a thread has failed")?;
        }
        Ok(moved)
    })?;
    anyhow::ensure!(moved == TOTAL / PAGE, "{moved} pages moved");
    Ok(start.elapsed().as_nanos() as f64 / moved as f64)
}

/// The least of some rounds, in each of which the guests have all their memory mapped.
fn best(guests: &[Guest], parts: &[(&PrivMemFd, Range<u64>)]) -> anyhow::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        for guest in guests {
            let size = guest.fd.stat()?.size;
            let at = vmm::layout::PRIVATE_BASE;
            guest.vcpu.prefault(at..at + size)?;
        }
        best = best.min(together(parts)?);
    }
    Ok(best)
}

/// Of one file, each thread a part of its own.
fn on_one_file(count: u64) -> anyhow::Result<f64> {
    let guests = [Guest::new(TOTAL)?];
    let part = TOTAL / count;
    let parts: Vec<_> = (0..count)
        .map(|nr| (&guests[0].fd, nr * part..(nr + 1) * part))
        .collect();
    best(&guests, &parts)
}

/// Each of a file, and a VM, of its own.
fn on_files(count: u64) -> anyhow::Result<f64> {
    let part = TOTAL / count;
    let guests = (0..count)
        .map(|_| Guest::new(part))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let parts: Vec<_> = guests.iter().map(|guest| (&guest.fd, 0..part)).collect();
    best(&guests, &parts)
}

/// What a page costs with so many threads.
type Measure = fn(u64) -> anyhow::Result<f64>;

/// One, two and four of them.
pub fn threads(bench: &mut Bench) -> anyhow::Result<Vec<Growth>> {
    let all: [(&str, Measure); 2] = [
        ("moving a VM's 32 MiB by n threads", on_one_file),
        ("moving 32 MiB of n VMs by n threads", on_files),
    ];
    let mut growth = Vec::new();
    for (what, measure) in all {
        let mut points = Vec::new();
        for count in THREADS {
            match measure(count) {
                Ok(cost) => points.push((count, cost)),
                Err(e) => bench.note(format!("{what}, n = {count}: {e:#}")),
            }
        }
        if !points.is_empty() {
            growth.push(Growth::new(what, points));
        }
    }
    Ok(growth)
}
