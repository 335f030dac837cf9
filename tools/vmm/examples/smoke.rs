// SPDX-License-Identifier: GPL-2.0
//! Runs a guest on KVM's own guest_memfd: shows that VMM and guest work
//! without privmemfd. `smoke [MiB] [vCPUs]`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use vmm::guest::{ONCE, VERIFY, WRITE};
use vmm::layout::PRIVATE_BASE;
use vmm::{Crew, Exit, Job, Vm, VmType};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().unwrap());
    let size = args.next().unwrap_or(64) << 20;
    let count = args.next().unwrap_or(2);
    let vm = Vm::new(VmType::SwProtected)?;
    println!("guest_memfd flags {:#x}", vm.guest_memfd_flags());
    let fd = vm.create_guest_memfd(size, 0)?;
    let memory = PRIVATE_BASE..PRIVATE_BASE + size;
    vm.bind_private(1, memory.clone(), fd.as_fd(), 0)?;
    let mut vcpus = (0..count)
        .map(|i| vm.vcpu(i))
        .collect::<Result<Vec<_>, _>>()?;
    assert_eq!(vcpus[0].write(memory.start, 42)?, Exit::Done(0));
    assert_eq!(vcpus[0].read(memory.start)?, Exit::Done(42));
    println!(
        "count: {:?}",
        vcpus[0].count(memory.start..memory.start + 8192, 8)?
    );
    vcpus[0].prefault(memory.start..memory.start + (1 << 20))?;
    println!("beyond: {:?}", vcpus[0].read(memory.end)?);

    let mut job = Job::new(memory.clone(), WRITE | ONCE);
    job.seed = 1 << 40;
    let t = Instant::now();
    let (v, p) = Crew::start(&vm, vcpus, &job)?.finish(Duration::from_secs(60))?;
    println!("fill: {:?} {p:?}", t.elapsed());
    job.flags = WRITE | VERIFY;
    let crew = Crew::start(&vm, v, &job)?;
    for _ in 0..5 {
        std::thread::sleep(Duration::from_secs(1));
        println!("{:?}", crew.progress());
    }
    let (mut v, _) = crew.stop()?;
    // A wrong cell must be seen.
    assert_eq!(v[0].write(memory.start + 4096, 1)?, Exit::Done(0));
    let t = Instant::now();
    let (_, p) = Crew::verify_once(&vm, v, &job, Duration::from_secs(60))?;
    println!("verify: {:?} {p:?}", t.elapsed());
    assert_eq!(p.mismatches, count);
    println!("smoke: ok");
    Ok(())
}
