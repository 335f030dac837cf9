// SPDX-License-Identifier: GPL-2.0
//! VMs, their memslots and attributes.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    kvm_create_guest_memfd, kvm_memory_attributes, kvm_userspace_memory_region2,
    KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_MEM_GUEST_MEMFD,
};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::guest::Control;
use crate::layout::{low_image, LOW_SIZE};
use crate::vcpu::Vcpu;

/// Guest addresses from start up to end.
pub type GuestRange = Range<u64>;

/// What KVM is asked to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmType {
    /// A VM without private memory.
    Default = 0,
    /// KVM_X86_SW_PROTECTED_VM: private memory that only software protects.
    SwProtected = 1,
}

impl VmType {
    /// Whether this machine's KVM makes such VMs (`KVM_CAP_VM_TYPES`).
    pub fn is_offered(self) -> io::Result<bool> {
        let types = Kvm::new().map_err(os)?.check_extension_raw(CAP_VM_TYPES);
        Ok(types & (1 << self as i32) != 0)
    }
}

/// `KVM_CAP_VM_TYPES`.
const CAP_VM_TYPES: u64 = 235;
/// `KVM_CAP_GUEST_MEMFD_FLAGS`.
const CAP_GUEST_MEMFD_FLAGS: u64 = 244;
const LOW_SLOT: u32 = 0;

/// A VM with shared low memory that holds guest code and control blocks.
#[derive(Debug)]
pub struct Vm {
    kvm: Kvm,
    fd: VmFd,
    low: Arc<MmapRegion>,
    // Shared memory behind the memslots, kept until the VM is gone.
    backing: Mutex<Vec<Arc<MmapRegion>>>,
}

pub(crate) fn os(e: vmm_sys_util::errno::Error) -> io::Error {
    io::Error::from_raw_os_error(e.errno())
}

fn anonymous(size: u64) -> io::Result<Arc<MmapRegion>> {
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
    MmapRegion::new(size)
        .map(Arc::new)
        .map_err(io::Error::other)
}

impl Vm {
    /// Makes a VM whose low memory is ready to run.
    pub fn new(vm_type: VmType) -> io::Result<Self> {
        let kvm = Kvm::new().map_err(os)?;
        let fd = kvm.create_vm_with_type(vm_type as u64).map_err(os)?;
        let low = anonymous(LOW_SIZE)?;
        low.as_volatile_slice()
            .write_slice(&low_image(), 0)
            .map_err(io::Error::other)?;
        let vm = Self {
            kvm,
            fd,
            low,
            backing: Mutex::default(),
        };
        vm.set_region(kvm_userspace_memory_region2 {
            slot: LOW_SLOT,
            guest_phys_addr: 0,
            memory_size: LOW_SIZE,
            userspace_addr: vm.low.as_ptr() as u64,
            ..Default::default()
        })?;
        Ok(vm)
    }

    /// Adds a vCPU.
    pub fn vcpu(&self, id: u64) -> io::Result<Vcpu> {
        let fd = self.fd.create_vcpu(id).map_err(os)?;
        Vcpu::new(&self.kvm, fd, id, Arc::clone(&self.low))
    }

    /// Flags that `KVM_CREATE_GUEST_MEMFD` takes for this VM.
    pub fn guest_memfd_flags(&self) -> u64 {
        let flags = self.fd.check_extension_raw(CAP_GUEST_MEMFD_FLAGS);
        u64::try_from(flags).unwrap_or(0)
    }

    /// `KVM_CREATE_GUEST_MEMFD`.
    pub fn create_guest_memfd(&self, size: u64, flags: u64) -> io::Result<OwnedFd> {
        let fd = self
            .fd
            .create_guest_memfd(kvm_create_guest_memfd {
                size,
                flags,
                ..Default::default()
            })
            .map_err(os)?;
        // SAFETY: KVM just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Binds bytes of a guest_memfd or privmemfd, from `offset` on, to guest
    /// addresses. While an address is shared, ordinary memory is there.
    pub fn bind(
        &self,
        slot: u32,
        at: GuestRange,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> io::Result<()> {
        let size = at.end - at.start;
        let backing = anonymous(size.next_multiple_of(4096))?;
        self.set_region(kvm_userspace_memory_region2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: at.start,
            memory_size: size,
            userspace_addr: backing.as_ptr() as u64,
            guest_memfd_offset: offset,
            guest_memfd: file.as_raw_fd() as u32,
            ..Default::default()
        })?;
        self.backing.lock().unwrap().push(backing);
        Ok(())
    }

    /// [`Vm::bind`] and [`Vm::set_private`] in one.
    pub fn bind_private(
        &self,
        slot: u32,
        at: GuestRange,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> io::Result<()> {
        self.bind(slot, at.clone(), file, offset)?;
        self.set_private(at)
    }

    /// Takes a memslot away.
    pub fn unbind(&self, slot: u32) -> io::Result<()> {
        self.set_region(kvm_userspace_memory_region2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            ..Default::default()
        })
    }

    fn set_region(&self, region: kvm_userspace_memory_region2) -> io::Result<()> {
        // SAFETY: memory behind a slot is only unmapped after the VM is gone.
        unsafe { self.fd.set_user_memory_region2(region) }.map_err(os)
    }

    /// Makes guest addresses private.
    pub fn set_private(&self, at: GuestRange) -> io::Result<()> {
        self.set_attributes(at, KVM_MEMORY_ATTRIBUTE_PRIVATE.into())
    }

    /// Makes guest addresses shared.
    pub fn set_shared(&self, at: GuestRange) -> io::Result<()> {
        self.set_attributes(at, 0)
    }

    fn set_attributes(&self, at: GuestRange, attributes: u64) -> io::Result<()> {
        self.fd
            .set_memory_attributes(kvm_memory_attributes {
                address: at.start,
                size: at.end - at.start,
                attributes,
                flags: 0,
            })
            .map_err(os)
    }

    pub(crate) fn low(&self) -> &Arc<MmapRegion> {
        &self.low
    }

    /// The control block of a vCPU, running or not.
    pub fn control(&self, id: u64) -> Control<'_> {
        Control::new(&self.low, id)
    }
}

impl AsFd for Vm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.fd.as_raw_fd()) }
    }
}
