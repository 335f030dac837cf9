// SPDX-License-Identifier: GPL-2.0
//! `unlocked_flags SECONDS CPU`: does a processor keep what it knows of itself while another
//! loads the state of its FPU? With QEMU, CPU 0 does not (Documentation/testing.rst).
//!
//! On CPU a guest leaves and comes back all the time, on the next one a thread does nothing
//! but FXRSTOR. A CPU that takes itself for a guest when it has left one saves its own
//! registers as the guest's, which ends by a triple fault, or never; one that takes itself for
//! not interruptible hangs. KVM is needed, no module of ours.

use std::arch::x86_64::{_fxrstor64, _fxsave64};
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use selftests::leaving::{arguments, leave, pin};
use vmm::guest::Field;
use vmm::{Vm, VmType};

/// The memory image of the FPU.
#[repr(align(16))]
struct Image([u8; 512]);

/// Loads the state of the FPU again and again; says how often.
fn load(cpu: usize, end: &AtomicBool) -> io::Result<u64> {
    pin(cpu)?;
    let mut image = Image([0; 512]);
    let mut times = 0;
    while !end.load(Ordering::Relaxed) {
        // SAFETY: The image is ours, of the size and alignment that the instructions want, and
        // what is loaded is the state that there was.
        unsafe {
            _fxsave64(image.0.as_mut_ptr());
            _fxrstor64(image.0.as_ptr());
        }
        times += 1;
    }
    Ok(times)
}

fn run(time: Duration, cpu: usize) -> io::Result<()> {
    let vm = &Vm::new(VmType::Default)?;
    let (vcpu, control) = (vm.vcpu(0)?, vm.control(0));
    let end = &AtomicBool::new(false);
    thread::scope(|s| {
        let loads = s.spawn(move || load(cpu + 1, end));
        let guest = s.spawn(move || leave(cpu, vcpu));
        let start = Instant::now();
        while start.elapsed() < time && !guest.is_finished() {
            // Nothing to do here but to look whether the guest has ended.
            thread::sleep(Duration::from_millis(10));
        }
        control.set(Field::Stop, 1);
        let left = guest.join().expect("no panic");
        end.store(true, Ordering::Relaxed);
        println!(
            "{:.1} s, {} exits of a guest on CPU {cpu}, {} loads of the FPU on CPU {}",
            start.elapsed().as_secs_f64(),
            control.get(Field::Started),
            loads.join().expect("no panic")?,
            cpu + 1
        );
        left
    })
}

fn main() -> ExitCode {
    let Some((time, cpu)) = arguments() else {
        eprintln!("usage: unlocked_flags SECONDS CPU");
        return ExitCode::FAILURE;
    };
    match run(time, cpu) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            println!("unlocked_flags: {e}");
            ExitCode::FAILURE
        }
    }
}
