// SPDX-License-Identifier: GPL-2.0
//! The life of a TD: what KVM refuses, and when.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{kvm_cpuid_entry2, kvm_enable_cap, KVM_CAP_SPLIT_IRQCHIP};
use kvm_ioctls::{Kvm, VmFd};

use super::counters::total;
use super::moves::while_looping;
use super::{booted, check, equal, no_mismatch, Counters, Options, Outcome};
use crate::guest::{Command, Field, SHARED_BIT};
use crate::tdx::{self, Cmd, Id, InitVm, MemRegion};
use crate::vm::{set_cpuid, Memory, Td};

const SEPT_VE_DISABLE: u64 = 1 << 28;
const DEBUG: u64 = 1;
const ROUNDS: u64 = 4;
/// `KVM_TDX_MEASURE_MEMORY_REGION`.
const MEASURE: u32 = 1;

fn errno<T>(result: &io::Result<T>) -> i32 {
    result
        .as_ref()
        .err()
        .map_or(0, |e| e.raw_os_error().unwrap_or(-1))
}

/// `result` has to be this error.
pub fn refused<T>(what: &str, result: io::Result<T>, want: i32) -> io::Result<()> {
    let got = errno(&result);
    check(got == want, || format!("{what}: errno {got}, not {want}"))
}

fn op(fd: &impl AsRawFd, id: Id, data: u64) -> io::Result<()> {
    let mut cmd = Cmd {
        id: id as u32,
        data,
        ..Default::default()
    };
    tdx::raw(fd, &mut cmd)
}

fn new_vm(kvm: &Kvm) -> io::Result<VmFd> {
    kvm.create_vm_with_type(tdx::VM_TYPE)
        .map_err(io::Error::other)
}

fn split_irqchip(vm: &VmFd) -> io::Result<()> {
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [24, 0, 0, 0],
        ..Default::default()
    })
    .map_err(io::Error::other)
}

fn create_vcpu(vm: &VmFd, id: u64) -> io::Result<kvm_ioctls::VcpuFd> {
    vm.create_vcpu(id)
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

/// KVM_TDX_CAPABILITIES and KVM_TDX_INIT_VM: what they refuse.
pub fn init_vm(_: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let kvm = Kvm::new().map_err(io::Error::other)?;
    let vm = new_vm(&kvm)?;
    let init = |change: &dyn Fn(&mut InitVm)| {
        let mut init = InitVm::new(0, 3);
        change(&mut init);
        op(&vm, Id::InitVm, &raw mut *init as u64)
    };
    let entry = |e: kvm_cpuid_entry2| {
        move |i: &mut InitVm| {
            i.cpuid.entries[1] = e;
            i.cpuid.nent = 2;
        }
    };
    let width = |bits: u32| move |i: &mut InitVm| i.cpuid.entries[0].eax = bits << 16;

    refused("a vCPU", create_vcpu(&vm, 0), libc::EIO)?;
    refused("finalizing", op(&vm, Id::FinalizeVm, 0), libc::EINVAL)?;
    let mut none = 0_u64;
    let mut cmd = Cmd {
        data: &raw mut none as u64,
        ..Default::default()
    };
    cmd.flags = 1;
    refused("flags", tdx::raw(&vm, &mut cmd), libc::EINVAL)?;
    (cmd.flags, cmd.hw_error) = (0, 1);
    refused("an error as input", tdx::raw(&vm, &mut cmd), libc::EINVAL)?;
    refused("an operation", op(&vm, Id::GetCpuid, 0), libc::EINVAL)?;
    refused("no memory", op(&vm, Id::InitVm, 8), libc::EFAULT)?;
    refused("a debug TD", init(&|i| i.attributes = DEBUG), libc::EINVAL)?;
    refused("features", init(&|i| i.xfam = 1 << 40), libc::EINVAL)?;
    refused("reserved", init(&|i| i.reserved[3] = 1), libc::EINVAL)?;
    refused("no width", init(&|i| i.cpuid.nent = 0), libc::EINVAL)?;
    refused("many entries", init(&|i| i.cpuid.nent = 257), libc::E2BIG)?;
    refused("40 bits", init(&width(40)), libc::EINVAL)?;
    refused("52 bits", init(&width(52)), libc::EINVAL)?;
    let unknown = kvm_cpuid_entry2 {
        function: 0x4000_0000,
        ..Default::default()
    };
    refused("an unknown leaf", init(&entry(unknown)), libc::EINVAL)?;
    let tsx = kvm_cpuid_entry2 {
        function: 7,
        ebx: 1 << 4 | 1 << 11,
        ..Default::default()
    };
    refused("TSX", init(&entry(tsx)), libc::EINVAL)?;
    // Nothing of that has changed the TD.
    init(&|_| {})?;
    refused("a second time", init(&|_| {}), libc::EINVAL)?;
    refused("no irqchip", create_vcpu(&vm, 0), libc::EINVAL)?;
    Ok(Outcome::Passed)
}

/// What vCPUs of a TD refuse before and after it is finalized.
pub fn vcpus(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let kvm = Kvm::new().map_err(io::Error::other)?;
    let vm = new_vm(&kvm)?;
    split_irqchip(&vm)?;
    tdx::init_vm(&vm, 0, 3)?;
    let most = vm.check_extension_int(kvm_ioctls::Cap::MaxVcpus) as u64;
    check(most >= 1, || "no vCPUs".into())?;
    // KVM has as many for a TD as the host has CPUs.
    let all: Vec<_> = (0..most)
        .map(|id| create_vcpu(&vm, id))
        .collect::<io::Result<_>>()?;
    refused("one more", create_vcpu(&vm, most), libc::EINVAL)?;
    let source = vec![0_u8; 8192];
    let source = (source.as_ptr() as u64 + 4095) & !4095;
    let mut region = MemRegion {
        source,
        gpa: 0,
        pages: 1,
    };
    let at = &raw mut region as u64;
    refused(
        "no vCPU yet",
        op(&all[0], Id::InitMemRegion, at),
        libc::EINVAL,
    )?;
    set_cpuid(&kvm, &all[0])?;
    tdx::init_vcpu(&all[0], 0)?;
    refused("a second time", op(&all[0], Id::InitVcpu, 0), libc::EINVAL)?;
    refused("no slot", op(&all[0], Id::InitMemRegion, at), libc::EINVAL)?;
    drop((all, vm));

    let mut td = Td::not_finalized(o.provider, o.size, o.vcpus)?;
    let gpa = td.test_memory().start;
    let vcpus = td.take_vcpus();
    let v = &vcpus[0].fd;
    for (what, wrong) in [
        (
            "an odd source",
            MemRegion {
                source: source + 1,
                gpa,
                pages: 1,
            },
        ),
        (
            "an odd address",
            MemRegion {
                source,
                gpa: gpa + 1,
                pages: 1,
            },
        ),
        (
            "no pages",
            MemRegion {
                source,
                gpa,
                pages: 0,
            },
        ),
        (
            "too many pages",
            MemRegion {
                source,
                gpa,
                pages: !0 >> 12,
            },
        ),
        (
            "shared memory",
            MemRegion {
                source,
                gpa: gpa | SHARED_BIT,
                pages: 1,
            },
        ),
    ] {
        let mut region = wrong;
        let result = op(v, Id::InitMemRegion, &raw mut region as u64);
        refused(what, result, libc::EINVAL)?;
    }
    let mut region = MemRegion {
        source,
        gpa,
        pages: 1,
    };
    let mut cmd = Cmd {
        id: Id::InitMemRegion as u32,
        flags: MEASURE << 1,
        data: &raw mut region as u64,
        ..Default::default()
    };
    refused("flags", tdx::raw(v, &mut cmd), libc::EINVAL)?;
    // Not measured.
    cmd.flags = 0;
    tdx::raw(v, &mut cmd)?;
    equal("pages left", region.pages, 0)?;
    equal("where it ends", region.gpa, gpa + 4096)?;
    region = MemRegion {
        source,
        gpa,
        pages: 1,
    };
    cmd.data = &raw mut region as u64;
    refused("a page that is there", tdx::raw(v, &mut cmd), libc::EIO)?;

    refused("little room", tdx::get_cpuid(v, 1), libc::E2BIG)?;
    let leaves = tdx::get_cpuid(v, 256)?;
    let leaves = &leaves.entries[..leaves.nent as usize];
    let width = leaves.iter().find(|e| e.function == 0x8000_0008);
    equal("address width", width.map_or(0, |e| e.eax >> 16 & 0xFF), 48)?;
    check(leaves.len() > 8, || format!("{} leaves", leaves.len()))?;
    td.finalize()?;
    for (what, id) in [
        ("more pages", Id::InitMemRegion),
        ("vCPUs", Id::InitVcpu),
        ("leaves", Id::GetCpuid),
    ] {
        refused(what, op(v, id, at), libc::EINVAL)?;
    }
    refused("finalized", op(&*td.vm, Id::FinalizeVm, 0), libc::EINVAL)?;
    // Its registers are its own.
    check(v.get_regs().is_err(), || "registers of a TD".into())?;
    Ok(Outcome::Passed)
}

/// A TD that wants no virtualization exceptions uses a page that it has not
/// accepted: KVM ends the VM, whose memory can be moved nonetheless.
pub fn dead(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let mut td = Td::with_attributes(o.provider, o.size, o.vcpus, SEPT_VE_DISABLE)?;
    td.finalize()?;
    let mut vcpus = td.take_vcpus();
    for v in &mut vcpus {
        v.run()?;
    }
    let at = td.test_memory();
    let v = &mut vcpus[0];
    v.command(Command::Accept, [at.start, at.start + 4096, 0])?;
    v.command(Command::Fill, [at.start, at.start + 4096, 8])?;
    let end = v.command(Command::Read, [at.start + 4096, 0, 0]);
    refused("an unaccepted page", end, libc::EIO)?;
    equal("exceptions", td.control(0).get(Field::Exceptions), 0)?;
    for v in &mut vcpus {
        refused("a dead VM", v.run(), libc::EIO)?;
    }
    if let Memory::Privmemfd(file) = &td.memory {
        let all = 0..file.stat()?.size;
        let before = file.pages(all.clone())?;
        let there = before.iter().flatten().count() as u64;
        let relocated = total("tdx_relocated")?;
        let moved = file.move_range(all.clone(), None).map_err(|e| e.errno());
        check(moved == Ok(there), || {
            format!("{there} pages of a dead VM, moved: {moved:?}")
        })?;
        let mapped = td.image_size() / 4096 + 2;
        let relocated = total("tdx_relocated")? - relocated;
        check(relocated >= mapped, || {
            format!("{relocated} of {mapped} pages relocated")
        })?;
        let after = file.pages(all)?;
        let same = before
            .iter()
            .zip(&after)
            .filter(|(b, a)| b.is_some() && b == a);
        equal("pages that are where they were", same.count() as u64, 0)?;
    }
    Ok(Outcome::Passed)
}

/// A slot with a part of a file goes while vCPUs run, and comes back: what was in
/// it is lost. Its pages move when they have another place in the file than in
/// the TD.
pub fn slots(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    const PAGES: u64 = 32;
    const BEFORE: u64 = 8;
    const SLOT: u32 = 5;
    let (td, mut vcpus) = booted(o)?;
    let mut v = vcpus.remove(0);
    let at = 0xB000_0000..0xB000_0000 + PAGES * 4096;
    let file = td.more_memory((BEFORE + PAGES) * 4096)?;
    let everywhere = [at.start, at.end, 8];
    while_looping(o, &td, vcpus, || {
        for n in 0..ROUNDS {
            td.bind_file(SLOT, at.clone(), &file, BEFORE * 4096)?;
            if n > 0 {
                // The read at the end of the last round, after an exception.
                v.run()?;
                equal("content", v.control().get(Field::Result), 0)?;
            }
            let accepted = v.command(Command::Accept, [at.start, at.end, 0])?;
            equal("TDG.MEM.PAGE.ACCEPT", accepted, 0)?;
            equal("pages there", v.control().get(Field::Already), n)?;
            let last = v.command(Command::Read, [at.end - 8, 0, 0])?;
            equal("content", last, 0)?;
            v.command(Command::Fill, everywhere)?;
            if let Memory::Privmemfd(file) = &file {
                let moved = file
                    .move_range(0..(BEFORE + PAGES) * 4096, None)
                    .map_err(io::Error::other)?;
                equal("pages moved", moved, PAGES)?;
            }
            v.command(Command::Verify, everywhere)?;
            no_mismatch(v.control())?;
            td.unbind(SLOT)?;
            let gone = v.command(Command::Read, [at.start, 0, 0]);
            check(gone.is_err(), || "a slot that is gone is there".into())?;
        }
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// KVM_PRE_FAULT_MEMORY: not before the TD is finalized, then for pages that are
/// there already as well.
pub fn pre_fault(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let mut td = Td::not_finalized(o.provider, o.size, o.vcpus)?;
    let mut vcpus = td.take_vcpus();
    let at = td.test_memory().start;
    let end = at + 64 * 4096;
    let early = vcpus[0].pre_fault(at..end);
    refused("a TD that is being built", early, libc::EOPNOTSUPP)?;
    td.finalize()?;
    for v in &mut vcpus {
        v.pre_fault(at..end)?;
        v.run()?;
    }
    let v = &mut vcpus[0];
    let accepted = v.command(Command::Accept, [at, end, 0])?;
    equal("TDG.MEM.PAGE.ACCEPT", accepted, 0)?;
    equal("pages accepted", v.control().get(Field::Already), 0)?;
    v.command(Command::Fill, [at, end, 8])?;
    for v in &mut vcpus {
        v.pre_fault(at..end + 4096)?;
        v.command(Command::Verify, [at, end, 8])?;
        no_mismatch(v.control())?;
        equal("exceptions", v.control().get(Field::Exceptions), 0)?;
    }
    Ok(Outcome::Passed)
}
