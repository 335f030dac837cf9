// SPDX-License-Identifier: GPL-2.0
//! Who may bind which file, and that memory moves for all who have.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kvm_bindings::{kvm_create_guest_memfd, kvm_userspace_memory_region2, KVM_MEM_GUEST_MEMFD};
use kvm_ioctls::{Kvm, VmFd};
use privmemfd_ioctls::PrivMemFd;

use super::life::refused;
use super::{booted, equal, no_mismatch, Counters, Options, Outcome, CANNOT_MOVE};
use crate::guest::{Command, Field};
use crate::vm::{movable, Memory, Td, Vcpu};

/// `GUEST_MEMFD_FLAG_MOVABLE`, and a flag that does not go with it.
const MOVABLE: u64 = 1 << 30;
const MMAP: u64 = 1;
const DEFAULT_VM: u64 = 0;
const SW_PROTECTED_VM: u64 = 1;

const PAGES: u64 = 32;
pub(super) const SIZE: u64 = PAGES * 4096;
pub(super) const HERE: Range<u64> = 0xB000_0000..0xB000_0000 + SIZE;
const THERE: Range<u64> = 0xB100_0000..0xB100_0000 + SIZE;

/// A file that KVM_CREATE_GUEST_MEMFD makes.
fn create(vm: &VmFd, flags: u64) -> io::Result<PrivMemFd> {
    let fd = vm
        .create_guest_memfd(kvm_create_guest_memfd {
            size: SIZE,
            flags,
            ..Default::default()
        })
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
    // SAFETY: KVM just made this descriptor for us.
    Ok(PrivMemFd::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Binds a file to a VM that is no TD.
pub(super) fn bind_to(vm: &VmFd, td: &Td, file: &Memory) -> io::Result<()> {
    let region = kvm_userspace_memory_region2 {
        flags: KVM_MEM_GUEST_MEMFD,
        memory_size: SIZE,
        userspace_addr: td.shared().as_ptr() as u64,
        guest_memfd: file.as_raw_fd() as u32,
        ..Default::default()
    };
    // SAFETY: no vCPU of this VM ever runs.
    unsafe { vm.set_user_memory_region2(region) }
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

pub(super) fn use_memory(v: &mut Vcpu, at: &Range<u64>) -> io::Result<()> {
    let accepted = v.command(Command::Accept, [at.start, at.end, 0])?;
    equal("TDG.MEM.PAGE.ACCEPT", accepted, 0)?;
    v.command(Command::Fill, [at.start, at.end, 8])?;
    Ok(())
}

pub(super) fn verify(v: &mut Vcpu, at: &Range<u64>) -> io::Result<()> {
    let before = v.control().get(Field::Cells);
    v.command(Command::Verify, [at.start, at.end, 8])?;
    no_mismatch(v.control())?;
    let cells = (at.end - at.start) / 8;
    equal("cells", v.control().get(Field::Cells) - before, cells)
}

pub(super) fn moved(file: &Memory, want: u64) -> io::Result<()> {
    let Memory::Privmemfd(file) = file else {
        return Ok(());
    };
    let all = 0..file.stat()?.size;
    let n = file.move_range(all, None).map_err(io::Error::other)?;
    equal("pages moved", n, want)
}

/// Files of KVM_CREATE_GUEST_MEMFD, and those that several VMs bind.
pub fn binding(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    if matches!(td.memory, Memory::Kvm(_)) {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    }
    let (other, mut others) = booted(o)?;
    let (first, second) = (&mut vcpus[0], &mut others[0]);

    let both = create(&td.vm, MOVABLE | MMAP);
    refused("movable, and not private", both, libc::EINVAL)?;
    let own = Memory::Privmemfd(create(&td.vm, MOVABLE)?);
    td.bind_file(5, HERE, &own, 0)?;
    use_memory(first, &HERE)?;
    moved(&own, PAGES)?;
    verify(first, &HERE)?;
    let again = td.bind_file(6, THERE, &own, 0);
    refused("a second time", again, libc::EEXIST)?;
    let foreign = other.bind_file(5, HERE, &own, 0);
    refused("the file of another VM", foreign, libc::EINVAL)?;
    let beyond = td.bind_file(6, THERE, &own, 4096);
    refused("beyond the end", beyond, libc::EINVAL)?;
    td.unbind(5)?;

    // One file, a half for each.
    let shared = Memory::Privmemfd(movable(2 * SIZE)?);
    td.bind_file(5, HERE, &shared, 0)?;
    other.bind_file(5, THERE, &shared, SIZE)?;
    use_memory(first, &HERE)?;
    use_memory(second, &THERE)?;
    for _ in 0..2 {
        moved(&shared, 2 * PAGES)?;
        verify(first, &HERE)?;
        verify(second, &THERE)?;
    }
    let foreign = other.bind_file(6, HERE, &shared, 0);
    refused("memory of another TD", foreign, libc::EBUSY)?;

    // Files that are no private memory, or not this VM's.
    let nothing = Memory::Kvm(std::fs::File::open("/dev/null")?.into());
    refused(
        "no memory",
        td.bind_file(6, THERE, &nothing, 0),
        libc::EINVAL,
    )?;
    let fixed = create(&other.vm, 0)?;
    fixed.allocate(0..SIZE)?;
    fixed.punch_hole(0..SIZE)?;
    let fixed = Memory::Privmemfd(fixed);
    let foreign = td.bind_file(6, THERE, &fixed, 0);
    refused("KVM's own file of another VM", foreign, libc::EINVAL)?;

    let kvm = Kvm::new().map_err(io::Error::other)?;
    let new = |kind| kvm.create_vm_with_type(kind).map_err(io::Error::other);
    let ordinary = new(DEFAULT_VM)?;
    refused(
        "for a VM that cannot",
        create(&ordinary, MOVABLE),
        libc::EINVAL,
    )?;
    for flags in [0, MMAP] {
        create(&ordinary, flags)?;
    }
    let foreign = bind_to(&ordinary, &td, &own);
    refused("to a VM that cannot", foreign, libc::EOPNOTSUPP)?;
    let protected = new(SW_PROTECTED_VM)?;
    let foreign = bind_to(&protected, &td, &shared);
    refused("memory of a TD", foreign, libc::EBUSY)?;
    // Memory that no TD has moves by a copy.
    let plain = movable(2 * SIZE)?;
    plain.allocate(0..2 * SIZE)?;
    let plain = Memory::Privmemfd(plain);
    bind_to(&protected, &td, &plain)?;
    moved(&plain, 2 * PAGES)?;
    let foreign = td.bind_file(6, THERE, &plain, 0);
    refused("memory of a VM that is no TD", foreign, libc::EBUSY)?;
    drop(protected);
    // It is free again.
    td.bind_file(6, THERE, &plain, 0)?;
    use_memory(first, &THERE)?;
    moved(&plain, 2 * PAGES)?;
    verify(first, &THERE)?;
    verify(first, &HERE)?;
    Ok(Outcome::Passed)
}
