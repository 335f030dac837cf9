// SPDX-License-Identifier: GPL-2.0
//! Memory that comes.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use privmemfd_ioctls::{Device, Mobility, Options};
use rustix::fs::FallocateFlags;
use vmm::{Vm, VmType};

use super::{per_page, timed, Bench};
use privmemfd_bench::report::Pair;

/// fallocate of a new file, ours and KVM's own.
pub fn populate(bench: &mut Bench) -> anyhow::Result<Vec<Pair>> {
    let amount = bench.amount;
    let vm = match Vm::new(VmType::SwProtected) {
        Ok(vm) => vm,
        Err(e) => {
            bench.note(format!("no VM, so no guest_memfd to compare with: {e}"));
            return Ok(Vec::new());
        }
    };
    let (size, pages) = (amount.size(), amount.pages());
    let keep = FallocateFlags::KEEP_SIZE;
    let mut samples = Vec::new();
    for _ in 0..amount.rounds {
        let ours = Device::open()?.create(size, Options::new(Mobility::Movable))?;
        let theirs = vm.create_guest_memfd(size, 0)?;
        let link = fs::read_link(format!("/proc/self/fd/{}", theirs.as_raw_fd()))?;
        if link.to_string_lossy() == privmemfd_ioctls::LINK {
            bench.note("serve_all=1: every guest_memfd is ours, nothing to compare with");
            return Ok(Vec::new());
        }
        let (_, t) = bench.profiled("populate", |()| pages, || Ok(ours.allocate(0..size)?))?;
        let (_, u) = timed(|| Ok(rustix::fs::fallocate(theirs.as_fd(), keep, 0, size)?))?;
        samples.push((per_page(t, pages), per_page(u, pages)));
    }
    let sides = (
        "fallocate of a privmemfd",
        "fallocate of KVM's own guest_memfd",
    );
    Ok(vec![Pair::new("populate", sides, &samples)])
}
