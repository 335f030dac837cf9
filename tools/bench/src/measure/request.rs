// SPDX-License-Identifier: GPL-2.0
//! Moves on request, between two nodes and back.

use std::os::fd::AsFd;

use anyhow::bail;
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd};
use vmm::layout::PRIVATE_BASE;
use vmm::{Vcpu, Vm, VmType};

use super::{per_page, timed, two_nodes, Bench};
use crate::mapped::Mapped;
use privmemfd_bench::report::Pair;

const THEIRS: &str = "move_pages(2) of a mapped memfd";

fn on_node(size: u64, node: u32) -> anyhow::Result<PrivMemFd> {
    let fd = Device::open()?.create(size, Options::new(Mobility::Movable).node(node))?;
    fd.allocate(0..size)?;
    fd.move_range(0..size, Some(node))?;
    Ok(fd)
}

/// A file that no VM uses.
pub fn request(bench: &mut Bench) -> anyhow::Result<Vec<Pair>> {
    let amount = bench.amount;
    let Some([a, b]) = two_nodes(bench)? else {
        return Ok(Vec::new());
    };
    let (size, pages) = (amount.size(), amount.pages());
    let ours = on_node(size, a)?;
    let theirs = Mapped::new(size)?;
    theirs.move_to(a)?;
    let mut samples = Vec::new();
    for node in [b, a].into_iter().cycle().take(amount.rounds as usize) {
        let work = || Ok(ours.move_range(0..size, Some(node))?);
        let (moved, t) = bench.profiled("move on request", |moved| *moved, work)?;
        let (arrived, u) = timed(|| theirs.move_to(node))?;
        if moved != pages || arrived != pages {
            bail!("{moved} and {arrived} of {pages} pages moved");
        }
        samples.push((per_page(t, pages), per_page(u, pages)));
    }
    let sides = ("PRIVMEMFD_MOVE", THEIRS);
    Ok(vec![Pair::new("move on request", sides, &samples)])
}

/// A guest that has mapped and written all its memory.
fn guest(fd: &PrivMemFd, size: u64) -> anyhow::Result<(Vm, Vcpu)> {
    let vm = Vm::new(VmType::SwProtected)?;
    let memory = PRIVATE_BASE..PRIVATE_BASE + size;
    vm.bind_private(1, memory.clone(), fd.as_fd(), 0)?;
    let vcpu = vm.vcpu(0)?;
    vcpu.prefault(memory)?;
    Ok((vm, vcpu))
}

/// A file whose pages a VM has mapped: it has to be kept off them, and they have
/// content. The guest is idle.
pub fn request_mapped(bench: &mut Bench) -> anyhow::Result<Vec<Pair>> {
    let amount = bench.amount;
    let Some([a, b]) = two_nodes(bench)? else {
        return Ok(Vec::new());
    };
    let (size, pages) = (amount.size(), amount.pages());
    let ours = on_node(size, a)?;
    let (_vm, vcpu) = match guest(&ours, size) {
        Ok(guest) => guest,
        Err(e) => {
            bench.note(format!("no guest: {e:#}"));
            return Ok(Vec::new());
        }
    };
    let theirs = Mapped::new(size)?;
    theirs.move_to(a)?;
    let (mut moves, mut with_fault) = (Vec::new(), Vec::new());
    for node in [b, a].into_iter().cycle().take(amount.rounds as usize) {
        let work = || Ok(ours.move_range(0..size, Some(node))?);
        let (moved, t) = bench.profiled("move on request, mapped by a VM", |moved| *moved, work)?;
        let ((), f) = timed(|| Ok(vcpu.prefault(PRIVATE_BASE..PRIVATE_BASE + size)?))?;
        let (arrived, u) = timed(|| theirs.move_to(node))?;
        if moved != pages || arrived != pages {
            bail!("{moved} and {arrived} of {pages} pages moved");
        }
        moves.push((per_page(t, pages), per_page(u, pages)));
        with_fault.push((per_page(t + f, pages), per_page(u, pages)));
    }
    let sides = ("PRIVMEMFD_MOVE of a VM's pages", THEIRS);
    let faulting = ("the same, and KVM_PRE_FAULT_MEMORY", THEIRS);
    Ok(vec![
        Pair::new("move on request, mapped by a VM", sides, &moves),
        Pair::new("  and mapped by it again", faulting, &with_fault),
    ])
}
