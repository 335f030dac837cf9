// SPDX-License-Identifier: GPL-2.0
//! What a vCPU waits when it wants a page that moves.
//!
//! One thread moves all pages of a guest over and over, on one CPU; the guest touches one page after
//! the other, on the other CPU, and each time is taken. What it takes while nothing moves is
//! subtracted.
//!
//! The CPUs of a machine whose clock counts instructions take turns, which are as long as no timer
//! is due. A timer every [`TURN`] ns keeps a CPU that spins from spinning for long.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{ensure, Context};
use perf_event::events::Software;
use perf_event::{Builder, Counter};
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd};
use selftests::fixtures::PAGE;
use selftests::tdx::{pin_to, Tdx};
use tdhost::Command;
use vmm::guest::Entry;
use vmm::layout::PRIVATE_BASE;
use vmm::{Exit, Vm, VmType};

use super::{per_page, timed, Bench};
use privmemfd_bench::report::{median, p99, Pause, Unit};

/// Pages of the guest: several of the largest batches.
const PAGES: u64 = 2048;
/// Accesses, quiet and beside moves.
const ACCESSES: u64 = 2000;
/// Between two accesses to neighbours of each other; no factor in common with [`PAGES`].
const STRIDE: u64 = 677;
const TURN: u64 = 20_011;
/// Turns, switches from one thread to the other, and what an access takes that has to be tried again.
const SLACK: f64 = 10.0 * TURN as f64;

/// Times in units of the clock.
fn accesses(mut touch: impl FnMut(u64) -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    let nr = |access| access * STRIDE % PAGES;
    (0..ACCESSES)
        .map(|access| {
            let start = Instant::now();
            touch(nr(access))?;
            Ok(start.elapsed().as_nanos() as f64)
        })
        .collect()
}

/// Keeps the turns of the CPUs short, for as long as it lives.
pub fn turns() -> anyhow::Result<Counter> {
    let mut builder = Builder::new(Software::CPU_CLOCK);
    builder.include_kernel().any_pid().one_cpu(0);
    builder.sample_period(TURN);
    let mut counter = builder.build().context("perf_event_open")?;
    counter.enable()?;
    Ok(counter)
}

fn pause(
    vm: &'static str,
    batch: u64,
    fd: &PrivMemFd,
    mut touch: impl FnMut(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Pause> {
    let all = 0..PAGES * PAGE;
    fd.move_range(all.clone(), None)?;
    let (moved, took) = timed(|| Ok(fd.move_range(all.clone(), None)?))?;
    let move_per_page = per_page(took, moved);

    let _turns = turns()?;
    pin_to(0);
    accesses(&mut touch)?;
    let quiet = median(accesses(&mut touch)?.into_iter());
    let stop = AtomicBool::new(false);
    let beside = thread::scope(|scope| {
        let mover = scope.spawn(|| -> anyhow::Result<u64> {
            pin_to(1);
            let mut moved = 0;
            while !stop.load(Ordering::Relaxed) {
                // A page that is busy ends a request.
                moved += fd
                    .move_range(all.clone(), None)
                    .or_else(|e| match e.errno() {
                        libc::EAGAIN | libc::EBUSY => Ok(e.moved),
                        _ => Err(e),
                    })?;
            }
            Ok(moved)
        });
        let times = accesses(&mut touch);
        stop.store(true, Ordering::Relaxed);
        let moved = mover.join().expect("the mover has failed")?;
        ensure!(moved > 0, "nothing has moved beside the accesses");
        times
    })?;
    let waits: Vec<_> = beside.iter().map(|took| (took - quiet).max(0.0)).collect();
    Ok(Pause {
        vm: vm.into(),
        batch,
        accesses: waits.len(),
        longest: waits.iter().copied().fold(0.0, f64::max),
        p99: p99(waits),
        move_per_page,
    })
}

fn software(batch: u64) -> anyhow::Result<Pause> {
    let size = PAGES * PAGE;
    let fd = Device::open()?.create(size, Options::new(Mobility::Movable))?;
    fd.allocate(0..size)?;
    let vm = Vm::new(VmType::SwProtected)?;
    let memory = PRIVATE_BASE..PRIVATE_BASE + size;
    vm.bind_private(1, memory.clone(), fd.as_fd(), 0)?;
    let mut vcpu = vm.vcpu(0)?;
    vcpu.prefault(memory)?;
    pause("software-protected VM", batch, &fd, |page| {
        vcpu.start(Entry::Write, [PRIVATE_BASE + page * PAGE, page, 0])?;
        match vcpu.run()? {
            Exit::Done(_) => Ok(()),
            other => anyhow::bail!("the guest has ended with {other:?}"),
        }
    })
}

fn td(batch: u64) -> anyhow::Result<Pause> {
    let td = Tdx::running(PAGES, 1);
    let pause = pause("TD", batch, &td.fd, |page| {
        td.ok(0, Command::Touch(1), td.page(page));
        Ok(())
    })?;
    td.verify();
    Ok(pause)
}

/// Of a software-protected VM and of a TD; the module was loaded with this batch.
///
/// # Errors
///
/// Also if a vCPU has waited longer than for two batches.
pub fn pauses(bench: &mut Bench, batch: u64) -> anyhow::Result<Vec<Pause>> {
    if bench.amount.unit != Unit::Instructions {
        bench.note("the clock counts no instructions: no pauses");
        return Ok(Vec::new());
    }
    let pauses = vec![software(batch)?, td(batch)?];
    for p in &pauses {
        // One for the page, whose lock is held as long, and one for the lock of the page tables, which the
        // next batch may have by then.
        let bound = (2.0 * p.batch as f64 + 1.0) * p.move_per_page * 1.25 + SLACK;
        ensure!(
            p.longest <= bound,
            "a vCPU of a {} has waited for {:.0} instructions, two batches of {} take less than {bound:.0}",
            p.vm,
            p.longest,
            p.batch
        );
    }
    Ok(pauses)
}
