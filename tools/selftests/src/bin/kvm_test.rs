// SPDX-License-Identifier: GPL-2.0
//! A privmemfd as the private memory of VMs: who may bind it where, how long
//! it stays, what the guest sees.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use privmemfd_ioctls::{Mobility, PrivMemFd, GUEST_MEMFD_FLAG_MOVABLE};
use rustix::fs::MemfdFlags;
use selftests::cases;
use selftests::fixtures::{
    bind_or_skip, device, done, fails, file, movable, unload, vm, wait_for, without_descriptors,
    Guest, GUEST_MEMFD_FLAG_MMAP, MIB, PAGE, PATIENCE,
};
use selftests::ktap::{self, note, skip};
use vmm::layout::PRIVATE_BASE as BASE;
use vmm::{Exit, Vm, VmType};

fn protected() -> Vm {
    let vm = vm(VmType::SwProtected);
    let probe = movable(PAGE);
    bind_or_skip(&vm, BASE..BASE + PAGE, probe.as_fd());
    vm.unbind(1).unwrap();
    vm
}

fn stat_sees(fd: &PrivMemFd, vms: u64, slots: u64) {
    let s = fd.stat().unwrap();
    assert_eq!((s.vms, s.slots), (vms, slots), "VMs and memslots");
}

fn a_guest_runs_on_it() {
    for mobility in [Mobility::Movable, Mobility::Pinned] {
        let fd = file(4 * MIB, mobility);
        let mut guest = Guest::new(&fd, 2);
        stat_sees(&fd, 1, 1);
        guest.fill();
        assert_eq!(fd.stat().unwrap().pages, 4 * MIB / PAGE);
        assert_eq!(guest.verify().verified, 2 * 4 * MIB);
    }
}

fn new_memory_is_zero() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    assert_eq!(guest.not_zero(guest.memory()), 0);
}

/// The tests rely on it: a hang ends a case instead of the program.
fn a_guest_that_goes_on_is_reported() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 2);
    let crew = guest.run();
    let Err(e) = crew.finish(Duration::from_millis(100)) else {
        panic!("a guest without an end has finished");
    };
    assert_eq!(e.kind(), std::io::ErrorKind::TimedOut, "{e}");
    let text = e.to_string();
    assert!(text.contains("running [true, true]"), "{text}");
    assert!(text.contains("end when told: true"), "{text}");
}

/// So is a guest that never looks whether it is to end, with where it was.
fn a_guest_that_hears_nothing_is_brought_back() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    let at = guest.page(0);
    let mut vcpu = guest.vcpus.pop().unwrap();
    let kick = vcpu.kick();
    // Steps of no bytes have no end.
    let thread = thread::spawn(move || vcpu.count(at..at + PAGE, 0).unwrap());
    let back = wait_for(PATIENCE, || {
        kick.send(&thread).unwrap();
        thread.is_finished()
    });
    assert!(back, "a kick has no effect");
    let exit = thread.join().unwrap();
    let Exit::Kicked(registers) = &exit else {
        panic!("{exit:?}");
    };
    assert_eq!(registers.rdi, at, "{}", registers.all);
}

/// Also on a KVM that has no connection to the module.
fn a_vm_takes_what_it_reports() {
    let vm = vm(VmType::SwProtected);
    let fd = movable(MIB);
    let r = vm.bind(1, BASE..BASE + MIB, fd.as_fd(), 0);
    if vm.guest_memfd_flags() & GUEST_MEMFD_FLAG_MOVABLE == 0 {
        fails(r, libc::EINVAL, "bind without a connection");
        stat_sees(&fd, 0, 0);
        let r = vm.create_guest_memfd(MIB, GUEST_MEMFD_FLAG_MOVABLE);
        fails(r, libc::EINVAL, "MOVABLE without a connection");
    } else {
        r.unwrap();
        stat_sees(&fd, 1, 1);
    }
}

fn other_vm_types_are_refused() {
    let vm = vm(VmType::Default);
    drop(protected());
    let fd = movable(MIB);
    let r = vm.bind(1, BASE..BASE + MIB, fd.as_fd(), 0);
    fails(r, libc::EOPNOTSUPP, "bind in a default VM");
    stat_sees(&fd, 0, 0);
}

fn bad_ranges_are_refused() {
    let vm = protected();
    let fd = movable(MIB);
    let bind = |size, offset| vm.bind(1, BASE..BASE + size, fd.as_fd(), offset);
    fails(bind(MIB + PAGE, 0), libc::EINVAL, "larger than the file");
    fails(bind(MIB, PAGE), libc::EINVAL, "beyond the end");
    fails(bind(PAGE, MIB), libc::EINVAL, "at the end");
    fails(bind(PAGE, 1), libc::EINVAL, "offset 1");
    fails(bind(PAGE, PAGE / 2), libc::EINVAL, "unaligned offset");
    fails(
        bind(PAGE, !(PAGE - 1)),
        libc::EINVAL,
        "offset that overflows",
    );
    stat_sees(&fd, 0, 0);
}

fn other_files_are_refused() {
    let vm = protected();
    let memfd = rustix::fs::memfd_create("memfd", MemfdFlags::CLOEXEC).unwrap();
    let at = BASE..BASE + MIB;
    fails(
        vm.bind(1, at.clone(), memfd.as_fd(), 0),
        libc::EINVAL,
        "memfd",
    );
    fails(
        vm.bind(1, at, device().as_fd(), 0),
        libc::EINVAL,
        "the control device",
    );
}

fn overlap_in_one_vm_is_refused() {
    let vm = protected();
    let fd = movable(4 * MIB);
    vm.bind(1, BASE..BASE + 2 * MIB, fd.as_fd(), MIB).unwrap();
    for (offset, size) in [
        (MIB, 2 * MIB),
        (0, 2 * MIB),
        (2 * MIB, 2 * MIB),
        (2 * MIB, PAGE),
    ] {
        let at = BASE + 8 * MIB;
        let r = vm.bind(2, at..at + size, fd.as_fd(), offset);
        fails(r, libc::EEXIST, &format!("{offset:#x}+{size:#x}"));
    }
    stat_sees(&fd, 1, 1);
    let at = BASE + 8 * MIB;
    vm.bind(2, at..at + MIB, fd.as_fd(), 0).unwrap();
    stat_sees(&fd, 1, 2);
    vm.unbind(1).unwrap();
    vm.bind(3, BASE..BASE + 2 * MIB, fd.as_fd(), MIB).unwrap();
    stat_sees(&fd, 1, 2);
}

fn slots_show_their_part_of_the_file() {
    let vm = protected();
    let fd = movable(4 * MIB);
    let mut vcpu = vm.vcpu(0).unwrap();
    // File pages 0 and 2 MiB end up in reverse order.
    vm.bind_private(1, BASE..BASE + 2 * MIB, fd.as_fd(), 2 * MIB)
        .unwrap();
    let other = BASE + 64 * MIB;
    vm.bind_private(2, other..other + 2 * MIB, fd.as_fd(), 0)
        .unwrap();
    assert_eq!(vcpu.write(BASE, 0x22).unwrap(), Exit::Done(0));
    assert_eq!(vcpu.write(other, 0x11).unwrap(), Exit::Done(0));
    let pages = fd.pages(0..4 * MIB).unwrap();
    let there: Vec<usize> = (0..pages.len()).filter(|i| pages[*i].is_some()).collect();
    assert_eq!(there, [0, 512]);
    vm.unbind(1).unwrap();
    vm.unbind(2).unwrap();
    // The other way round the same bytes are there.
    vm.bind_private(1, BASE..BASE + 4 * MIB, fd.as_fd(), 0)
        .unwrap();
    assert_eq!(done(vcpu.read(BASE).unwrap()), 0x11);
    assert_eq!(done(vcpu.read(BASE + 2 * MIB).unwrap()), 0x22);
}

fn two_vms_share_one_file() {
    let fd = movable(2 * MIB);
    let (a, b) = (protected(), protected());
    let high = BASE + 512 * MIB;
    a.bind_private(1, BASE..BASE + 2 * MIB, fd.as_fd(), 0)
        .unwrap();
    b.bind_private(1, high..high + 2 * MIB, fd.as_fd(), 0)
        .unwrap();
    stat_sees(&fd, 2, 2);
    let (mut in_a, mut in_b) = (a.vcpu(0).unwrap(), b.vcpu(0).unwrap());
    for page in 0..512 {
        in_a.write(BASE + page * PAGE, page + 1).unwrap();
        assert_eq!(done(in_b.read(high + page * PAGE).unwrap()), page + 1);
    }
    assert_eq!(fd.stat().unwrap().pages, 512);
    // A move under both: neither may go on with the old page.
    fd.move_range(0..2 * MIB, None).unwrap();
    for page in 0..512 {
        in_b.write(high + page * PAGE, page + 1000).unwrap();
        assert_eq!(done(in_a.read(BASE + page * PAGE).unwrap()), page + 1000);
    }
    fd.punch_hole(0..PAGE).unwrap();
    assert_eq!(done(in_a.read(BASE).unwrap()), 0);
    assert_eq!(done(in_b.read(high).unwrap()), 0);
    drop((in_a, a));
    stat_sees(&fd, 1, 1);
    assert_eq!(done(in_b.read(high + PAGE).unwrap()), 1001);
}

fn closing_the_file_keeps_memory_until_the_slot_goes() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    drop(fd);
    guest.verify();
    guest.vm.unbind(1).unwrap();
    let exit = guest.read(BASE);
    let gone = matches!(
        exit,
        Exit::MemoryFault {
            errno: libc::EFAULT,
            private: true,
            ..
        }
    );
    assert!(gone, "{exit:?}");
}

fn a_binding_keeps_the_module() {
    let vm = protected();
    let fd = movable(MIB);
    vm.bind(1, BASE..BASE + MIB, fd.as_fd(), 0).unwrap();
    drop(fd);
    fails(unload(c"privmemfd"), libc::EAGAIN, "unloading");
    vm.unbind(1).unwrap();
}

fn the_file_outlives_the_vm() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    let seed = guest.job.seed;
    guest.fill();
    drop(guest);
    stat_sees(&fd, 0, 0);
    assert_eq!(fd.stat().unwrap().pages, MIB / PAGE);
    let mut next = Guest::new(&fd, 1);
    next.job.seed = seed;
    // A new VM's counters begin at 0 while cells are of round 1.
    next.vcpus[0].control().set(vmm::guest::Field::Started, 1);
    next.verify();
}

fn every_order_of_ending() {
    // 0: close the file, 1: delete the slot, 2: drop the vCPU, 3: drop the VM.
    let orders = [
        [0, 1, 2, 3],
        [0, 2, 3, 1],
        [1, 0, 2, 3],
        [1, 2, 3, 0],
        [2, 3, 0, 1],
        [2, 0, 1, 3],
        [3, 2, 1, 0],
        [3, 0, 2, 1],
        [0, 3, 2, 1],
        [2, 1, 0, 3],
    ];
    for order in orders {
        let fd = movable(MIB);
        let mut guest = Guest::new(&fd, 1);
        guest.fill();
        let mut fd = Some(fd);
        let mut vcpus = Some(std::mem::take(&mut guest.vcpus));
        let mut vm = Some(guest.vm);
        for step in order {
            match step {
                0 => drop(fd.take()),
                1 => {
                    if let Some(vm) = &vm {
                        vm.unbind(1).unwrap();
                    }
                }
                2 => drop(vcpus.take()),
                _ => drop(vm.take()),
            }
        }
    }
}

fn slot_by_slot(kvm_made: bool) {
    let vm = protected();
    let fd: PrivMemFd = if kvm_made {
        need_movable_flag(&vm);
        vm.create_guest_memfd(8 * MIB, GUEST_MEMFD_FLAG_MOVABLE)
            .unwrap()
            .into()
    } else {
        movable(8 * MIB)
    };
    let mut vcpu = vm.vcpu(0).unwrap();
    for i in 0..8 {
        let at = BASE + i * 2 * MIB;
        vm.bind_private(1 + i as u32, at..at + MIB, fd.as_fd(), i * MIB)
            .unwrap();
        vcpu.write(at, i + 1).unwrap();
    }
    stat_sees(&fd, 1, 8);
    for i in 0..8 {
        assert_eq!(done(vcpu.read(BASE + i * 2 * MIB).unwrap()), i + 1);
        vm.unbind(1 + i as u32).unwrap();
        stat_sees(&fd, u64::from(i < 7), 7 - i);
    }
}

fn many_slots_of_one_file() {
    slot_by_slot(false);
}

fn many_slots_of_one_file_from_kvm() {
    slot_by_slot(true);
}

fn need_movable_flag(vm: &Vm) {
    if vm.guest_memfd_flags() & GUEST_MEMFD_FLAG_MOVABLE == 0 {
        skip("KVM does not offer GUEST_MEMFD_FLAG_MOVABLE");
    }
}

fn kvm_makes_movable_files() {
    let vm = protected();
    need_movable_flag(&vm);
    let fd: PrivMemFd = vm
        .create_guest_memfd(MIB, GUEST_MEMFD_FLAG_MOVABLE)
        .unwrap()
        .into();
    let s = fd.stat().unwrap();
    assert_eq!((s.size, s.mobility()), (MIB, Some(Mobility::Movable)));
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    assert_eq!(link.to_string_lossy(), privmemfd_ioctls::LINK);
    let at = BASE..BASE + MIB;
    let other = protected().bind(1, at.clone(), fd.as_fd(), 0);
    fails(other, libc::EINVAL, "bind in a VM that did not make it");
    vm.bind_private(1, at.clone(), fd.as_fd(), 0).unwrap();
    let mut vcpu = vm.vcpu(0).unwrap();
    for gpa in at.clone().step_by(PAGE as usize) {
        assert_eq!(vcpu.write(gpa, gpa).unwrap(), Exit::Done(0));
    }
    assert_eq!(fd.move_range(0..MIB, None).unwrap(), MIB / PAGE);
    for gpa in at.step_by(PAGE as usize) {
        assert_eq!(done(vcpu.read(gpa).unwrap()), gpa);
    }
}

fn kvm_refuses_bad_flags_and_sizes() {
    let vm = protected();
    need_movable_flag(&vm);
    let make = |size, flags| vm.create_guest_memfd(size, GUEST_MEMFD_FLAG_MOVABLE | flags);
    fails(
        make(MIB, GUEST_MEMFD_FLAG_MMAP),
        libc::EINVAL,
        "MOVABLE and MMAP",
    );
    fails(make(0, 0), libc::EINVAL, "size 0");
    fails(make(PAGE + 1, 0), libc::EINVAL, "unaligned size");
    fails(make(1 << 63, 0), libc::EINVAL, "negative size");
    let r = without_descriptors(|| make(MIB, 0));
    fails(r, libc::EMFILE, "descriptor table full");
    for bit in (2..64).filter(|b| *b != 30) {
        let r = vm.create_guest_memfd(MIB, 1 << bit);
        fails(r, libc::EINVAL, &format!("flag bit {bit}"));
    }
    let default = self::vm(VmType::Default);
    assert_eq!(default.guest_memfd_flags() & GUEST_MEMFD_FLAG_MOVABLE, 0);
    let r = default.create_guest_memfd(MIB, GUEST_MEMFD_FLAG_MOVABLE);
    fails(r, libc::EINVAL, "MOVABLE in a default VM");
}

fn upstream_guest_memfd_still_works() {
    let vm = protected();
    let fd = vm.create_guest_memfd(MIB, 0).unwrap();
    vm.bind_private(1, BASE..BASE + MIB, fd.as_fd(), 0).unwrap();
    let mut vcpu = vm.vcpu(0).unwrap();
    assert_eq!(vcpu.write(BASE, 7).unwrap(), Exit::Done(0));
    assert_eq!(done(vcpu.read(BASE).unwrap()), 7);
    if PrivMemFd::from(fd.try_clone().unwrap()).stat().is_ok() {
        note("the module serves every guest_memfd (serve_all)");
    }
}

fn prefault_gives_memory() {
    let fd = movable(2 * MIB);
    let guest = Guest::new(&fd, 1);
    guest.vcpus[0].prefault(BASE..BASE + MIB).unwrap();
    assert_eq!(fd.stat().unwrap().pages, MIB / PAGE);
    guest.vcpus[0].prefault(BASE..BASE + 2 * MIB).unwrap();
    assert_eq!(fd.stat().unwrap().pages, 2 * MIB / PAGE);
}

fn conversion_both_ways() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    guest.write(BASE, 1);
    for round in 0..20 {
        guest.vm.set_shared(BASE..BASE + PAGE).unwrap();
        assert_eq!(
            done(guest.read(BASE)),
            if round == 0 { 0 } else { 2 },
            "shared"
        );
        guest.write(BASE, 2);
        fd.move_range(0..MIB, None).unwrap();
        assert_eq!(
            done(guest.read(BASE)),
            2,
            "moving private memory leaves the shared page"
        );
        guest.vm.set_private(BASE..BASE + PAGE).unwrap();
        assert_eq!(done(guest.read(BASE)), 1, "private content is back");
    }
}

fn punched_pages_are_zero_and_frames_are_clean() {
    let fd = movable(8 * MIB);
    let mut guest = Guest::new(&fd, 2);
    guest.fill();
    fd.punch_hole(2 * MIB..4 * MIB).unwrap();
    assert_eq!(fd.stat().unwrap().pages, 6 * MIB / PAGE);
    assert_eq!(guest.not_zero(BASE + 2 * MIB..BASE + 4 * MIB), 0);
    let around = guest.not_zero(guest.memory());
    assert_eq!(around, 6 * MIB / 8, "cells beside the hole");
    // Whatever held guest content is clean when it comes back as new memory.
    for _ in 0..4 {
        guest.fill();
        fd.move_range(0..8 * MIB, None).unwrap();
        fd.punch_hole(0..8 * MIB).unwrap();
        assert_eq!(guest.not_zero(guest.memory()), 0);
    }
}

fn main() -> ExitCode {
    ktap::main(cases![
        "a guest writes and verifies movable and pinned memory" => a_guest_runs_on_it,
        "a guest that does not finish in time is reported" => a_guest_that_goes_on_is_reported,
        "a guest that hears nothing is brought back" => a_guest_that_hears_nothing_is_brought_back,
        "new memory is zero" => new_memory_is_zero,
        "a VM takes our files if it reports MOVABLE, else gives EINVAL" => a_vm_takes_what_it_reports,
        "a default VM is refused with EOPNOTSUPP" => other_vm_types_are_refused,
        "ranges that are unaligned or beyond the end give EINVAL" => bad_ranges_are_refused,
        "other files give EINVAL" => other_files_are_refused,
        "overlap in one VM gives EEXIST" => overlap_in_one_vm_is_refused,
        "a memslot shows its part of the file" => slots_show_their_part_of_the_file,
        "two VMs on one file see each other's data" => two_vms_share_one_file,
        "closing the file keeps the memory until the memslot goes" => closing_the_file_keeps_memory_until_the_slot_goes,
        "a binding without a descriptor keeps the module loaded" => a_binding_keeps_the_module,
        "the file keeps its content when the VM is gone" => the_file_outlives_the_vm,
        "file, memslot, vCPU and VM end in every order" => every_order_of_ending,
        "eight memslots of one file" => many_slots_of_one_file,
        "eight memslots of one file made by KVM" => many_slots_of_one_file_from_kvm,
        "KVM_CREATE_GUEST_MEMFD makes movable files" => kvm_makes_movable_files,
        "KVM_CREATE_GUEST_MEMFD refuses bad flags and sizes" => kvm_refuses_bad_flags_and_sizes,
        "KVM's own guest_memfd still works" => upstream_guest_memfd_still_works,
        "KVM_PRE_FAULT_MEMORY gives memory" => prefault_gives_memory,
        "conversion to shared and back keeps both contents" => conversion_both_ways,
        "punched pages read zero, whatever their frames held" => punched_pages_are_zero_and_frames_are_clean,
    ])
}
