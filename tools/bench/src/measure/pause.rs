// SPDX-License-Identifier: GPL-2.0
//! What a vCPU waits when it wants a page that moves.
//!
//! One thread moves all pages of a guest over and over, on one CPU; the guest touches one page after
//! the other, on the other CPU, and each time is taken. What it takes while nothing moves is
//! subtracted.
//!
//! The CPUs of a machine whose clock counts instructions take turns, which are as long as no timer
//! is due. A timer every [`TURN`] ns keeps a CPU that spins from spinning for long. Each CPU has one: a
//! turn may end when a CPU has taken a timer's interrupt and not set the next one yet, and then the
//! other's would be as long as it likes.

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

use super::{cpu_time, per_page, timed, Bench};
use privmemfd_bench::report::{median, p99, Pause, Unit};

/// Pages of the guest: several of the largest batches.
const PAGES: u64 = 2048;
/// Accesses, quiet and beside moves.
const ACCESSES: u64 = 2000;
/// Between two accesses to neighbours of each other; no factor in common with [`PAGES`].
const STRIDE: u64 = 677;
const TURN: u64 = 20_011;
/// Of the machine; [`pin_to`] one of them.
const CPUS: [usize; 2] = [0, 1];
/// Times that all batches are timed.
const PASSES: usize = 2;

/// What an access takes, in units of the clock.
struct Access {
    took: f64,
    /// Of that, while its thread had a CPU.
    running: f64,
}

impl Access {
    fn time(touch: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let (running, start) = (cpu_time(), Instant::now());
        touch()?;
        let took = start.elapsed().as_nanos() as f64;
        let running = (cpu_time() - running).as_nanos() as f64;
        Ok(Self { took, running })
    }

    /// Beyond one that takes `quiet`.
    fn waited(&self, quiet: f64) -> f64 {
        (self.took - quiet).max(0.0)
    }

    /// The same where CPUs run at once. Here they take turns: while a vCPU spins for `mmu_lock`, who has
    /// that lock gets on half as fast, and the clock counts either.
    fn waited_at_once(&self, quiet: f64) -> f64 {
        let other_half = (self.running - quiet).max(0.0) / 2.0;
        (self.waited(quiet) - other_half).max(0.0)
    }
}

/// All of them.
fn accesses(mut touch: impl FnMut(u64) -> anyhow::Result<()>) -> anyhow::Result<Vec<Access>> {
    let nr = |access| access * STRIDE % PAGES;
    (0..ACCESSES)
        .map(|access| Access::time(|| touch(nr(access))))
        .collect()
}

/// Keeps the turns of the CPUs short, for as long as these live.
pub fn turns() -> anyhow::Result<Vec<Counter>> {
    CPUS.into_iter()
        .map(|cpu| {
            let mut builder = Builder::new(Software::CPU_CLOCK);
            builder.include_kernel().any_pid().one_cpu(cpu);
            builder.sample_period(TURN);
            let mut counter = builder.build().context("perf_event_open")?;
            counter.enable()?;
            Ok(counter)
        })
        .collect()
}

/// A thread that moves pages of `fd` over and over, on the other CPU, while `beside` runs.
fn beside_moves<T>(
    fd: &PrivMemFd,
    beside: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let mover = scope.spawn(|| -> anyhow::Result<u64> {
            pin_to(1);
            let mut moved = 0;
            while !stop.load(Ordering::Relaxed) {
                // A page that is busy ends a request.
                moved += fd
                    .move_range(0..PAGES * PAGE, None)
                    .or_else(|e| match e.errno() {
                        libc::EAGAIN | libc::EBUSY => Ok(e.moved),
                        _ => Err(e),
                    })?;
            }
            Ok(moved)
        });
        let result = beside();
        stop.store(true, Ordering::Relaxed);
        let moved = mover.join().expect("the mover has failed")?;
        ensure!(moved > 0, "nothing has moved beside the accesses");
        result
    })
}

fn longest(times: &[f64]) -> f64 {
    times.iter().copied().fold(0.0, f64::max)
}

/// The longest time that one batch takes of which the guest has all pages, nobody being in the way.
fn one_batch(
    fd: &PrivMemFd,
    batch: u64,
    touch: &mut impl FnMut(u64) -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    pin_to(1);
    let mut longest: f64 = 0.0;
    for _ in 0..PASSES {
        for first in (0..PAGES).step_by(batch as usize) {
            (first..first + batch).try_for_each(&mut *touch)?;
            let start = Instant::now();
            fd.move_range(first * PAGE..(first + batch) * PAGE, None)?;
            longest = longest.max(start.elapsed().as_nanos() as f64);
        }
    }
    Ok(longest)
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
    let one_batch = one_batch(fd, batch, &mut touch)?;
    pin_to(0);
    accesses(&mut touch)?;
    let quiet = median(accesses(&mut touch)?.iter().map(|access| access.took));

    // The other CPU is as busy, with a file that this VM has nothing to do with.
    let other = Device::open()?.create(PAGES * PAGE, Options::new(Mobility::Movable))?;
    other.allocate(all)?;
    let mut faults = Vec::new();
    beside_moves(&other, || {
        for nr in (0..ACCESSES).map(|access| access * STRIDE % PAGES) {
            fd.move_range(nr * PAGE..(nr + 1) * PAGE, None)?;
            faults.push(Access::time(|| touch(nr))?.waited(quiet));
        }
        Ok(())
    })?;

    let beside = beside_moves(fd, || accesses(&mut touch))?;
    let waits: Vec<_> = beside.iter().map(|a| a.waited(quiet)).collect();
    let most = one_batch + longest(&faults) + TURN as f64;
    let over = beside.iter().filter(|a| a.waited_at_once(quiet) > most);
    let (over, longest) = (over.count(), longest(&waits));
    ensure!(
        over == 0,
        "{over} of {ACCESSES} accesses of a {vm} have waited for longer than one batch of {batch}: up to \
         {longest:.0} instructions, where a batch takes {one_batch:.0}"
    );
    Ok(Pause {
        vm: vm.into(),
        batch,
        accesses: waits.len(),
        longest,
        p99: p99(waits),
        move_per_page,
        one_batch,
        fault: median(faults.into_iter()),
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
/// Also if more than 1 % of the accesses have waited for longer than one batch and a fault take, or one for
/// longer than one batch, the longest such fault and a turn of the CPUs.
pub fn pauses(bench: &mut Bench, batch: u64) -> anyhow::Result<Vec<Pause>> {
    if bench.amount.unit != Unit::Instructions {
        bench.note("the clock counts no instructions: no pauses");
        return Ok(Vec::new());
    }
    let pauses = vec![software(batch)?, td(batch)?];
    for p in &pauses {
        ensure!(
            p.p99 <= p.one_batch + p.fault,
            "1 % of the accesses of a {} have waited for {:.0} instructions or more: one batch of {} takes \
             {:.0}, a fault {:.0}",
            p.vm,
            p.p99,
            p.batch,
            p.one_batch,
            p.fault
        );
    }
    Ok(pauses)
}
