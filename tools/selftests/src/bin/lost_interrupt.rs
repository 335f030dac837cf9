// SPDX-License-Identifier: GPL-2.0
//! `lost_interrupt SECONDS CPU`: does every interrupt reach a processor on which nested guests
//! run? With QEMU 10.0.2 machines hung (Documentation/testing.rst).
//!
//! On CPU and on the next one, one thread does nothing but have a guest leave and come back,
//! another sleeps for some microseconds at a time: the timer's interrupts meet exits of the guest. A CPU
//! that has lost one has no timer until another interrupt comes; meanwhile the guest goes on
//! alone, and how often it has left says that the CPU did not stand still. KVM is needed, no
//! module of ours.

use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use selftests::leaving::{arguments, leave, pin};
use vmm::guest::Field;
use vmm::{Vm, VmType};

const SLEEP: Duration = Duration::from_micros(50);
/// A guest that leaves so often has had its CPU for a tenth of a second or more, where no
/// scheduler lets the sleeper wait for ten milliseconds.
const MANY: u64 = 10_000;

/// Sleeps again and again; returns how often, and how often it was forgotten.
fn sleep(cpu: usize, left: &dyn Fn() -> u64, end: Instant) -> io::Result<(u64, u64)> {
    pin(cpu)?;
    let (mut sleeps, mut lost) = (0, 0);
    while Instant::now() < end {
        let (before, start) = (left(), Instant::now());
        thread::sleep(SLEEP);
        sleeps += 1;
        let meanwhile = left() - before;
        if meanwhile >= MANY {
            lost += 1;
            println!(
                "CPU {cpu}: slept {:?}, while the guest left {meanwhile} times",
                start.elapsed()
            );
        }
    }
    Ok((sleeps, lost))
}

fn run(time: Duration, cpu: usize) -> io::Result<u64> {
    let cpus = [cpu, cpu + 1];
    let vm = &Vm::new(VmType::Default)?;
    let control = |id: usize| vm.control(id as u64);
    let left = |id: usize| control(id).get(Field::Started);
    let end = Instant::now() + time;
    thread::scope(|s| {
        let guests = [0, 1].map(|id| {
            let vcpu = vm.vcpu(id as u64);
            s.spawn(move || leave(cpus[id], vcpu?))
        });
        let sleepers = [0, 1].map(|id| s.spawn(move || sleep(cpus[id], &|| left(id), end)));
        let slept = sleepers.map(|t| t.join().expect("no panic"));
        for (id, guest) in guests.into_iter().enumerate() {
            control(id).set(Field::Stop, 1);
            guest.join().expect("no panic")?;
        }
        let (mut sleeps, mut lost) = (0, 0);
        for one in slept {
            let (s, l) = one?;
            (sleeps, lost) = (sleeps + s, lost + l);
        }
        let exits = left(0) + left(1);
        println!("{exits} exits of guests, {sleeps} sleeps, {lost} interrupts lost");
        Ok(lost)
    })
}

fn main() -> ExitCode {
    let Some((time, cpu)) = arguments() else {
        eprintln!("usage: lost_interrupt SECONDS CPU");
        return ExitCode::FAILURE;
    };
    match run(time, cpu) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("lost_interrupt: {e} (needs KVM and two CPUs)");
            ExitCode::FAILURE
        }
    }
}
