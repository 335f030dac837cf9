// SPDX-License-Identifier: GPL-2.0
//! Takes pages away from a guest on KVM's own guest_memfd, as fast as it can:
//! the control for what is seen on a privmemfd. `punch [SECONDS] [TIMES]`.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use vmm::guest::{ALLOW_ZERO, ANY_ROUND, VERIFY, WRITE};
use vmm::layout::PRIVATE_BASE;
use vmm::{Crew, Job, Vm, VmType};

const SIZE: u64 = 8 << 20;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().unwrap());
    let limit = Duration::from_secs(args.next().unwrap_or(6));
    let times = args.next().unwrap_or(10);
    let mut lost = 0;
    for time in 0..times {
        let vm = Vm::new(VmType::SwProtected)?;
        let fd = vm.create_guest_memfd(SIZE, 0)?;
        vm.bind_private(1, PRIVATE_BASE..PRIVATE_BASE + SIZE, fd.as_fd(), 0)?;
        let vcpus = (0..2).map(|i| vm.vcpu(i)).collect::<Result<Vec<_>, _>>()?;
        let memory = PRIVATE_BASE..PRIVATE_BASE + SIZE;
        let mut job = Job::new(memory, WRITE | VERIFY | ALLOW_ZERO | ANY_ROUND);
        job.seed = (time + 1) << 40;
        let crew = Crew::start(&vm, vcpus, &job)?;
        let end = Instant::now() + limit;
        let (mut at, mut punched) = (0, 0u64);
        while Instant::now() < end && !crew.any_left() {
            at = (at + 37 * 4096) % SIZE;
            let len = (32 * 4096).min(SIZE - at) as libc::off_t;
            let mode = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
            // SAFETY: No memory is passed.
            let r = unsafe { libc::fallocate(fd.as_fd().as_raw_fd(), mode, at as i64, len) };
            assert_eq!(r, 0);
            punched += 1;
        }
        match crew.stop() {
            Ok((_, p)) => println!("{time}: {punched} punched, {} mismatches", p.mismatches),
            Err(e) => {
                lost += 1;
                println!("{time}: {punched} punched, {e}");
            }
        }
    }
    println!("{lost} of {times} runs lost a vCPU");
    Ok(())
}
