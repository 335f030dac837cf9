// SPDX-License-Identifier: GPL-2.0
//! A TD with its memory and its vCPUs.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use kvm_bindings::{
    kvm_create_guest_memfd, kvm_enable_cap, kvm_memory_attributes, kvm_pre_fault_memory,
    kvm_userspace_memory_region2, KVM_CAP_EXIT_HYPERCALL, KVM_CAP_SPLIT_IRQCHIP,
    KVM_MAX_CPUID_ENTRIES, KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_MEMORY_EXIT_FLAG_PRIVATE,
    KVM_MEM_GUEST_MEMFD,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd};
use vm_memory::MmapRegion;

use crate::guest::{self, Command, Control, Field, CONTROL, IMAGE_SIZE, MAX_VCPUS, RESET_PAGE};
use crate::tdx;

const KVM_PRE_FAULT_MEMORY: libc::c_ulong = 0xC040_AED5;
const KVM_CAP_VM_TYPES: u64 = 235;
const KVM_HC_MAP_GPA_RANGE: u64 = 12;
/// `KVM_MAP_GPA_RANGE_ENCRYPTED`.
const TO_PRIVATE: u64 = 1 << 4;
const X2APIC: u32 = 1 << 21;
const KVM_EXIT_TDX: u32 = 40;

fn os(e: vmm_sys_util::errno::Error) -> io::Error {
    io::Error::from_raw_os_error(e.errno())
}

fn other(text: String) -> io::Error {
    io::Error::other(text)
}

/// Where private memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// KVM's own guest_memfd.
    Kvm,
    /// A movable privmemfd.
    Privmemfd,
}

/// The file behind private memory.
#[derive(Debug)]
pub enum Memory {
    /// See [`Provider::Kvm`].
    Kvm(OwnedFd),
    /// See [`Provider::Privmemfd`].
    Privmemfd(PrivMemFd),
}

impl AsRawFd for Memory {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Memory::Kvm(f) => f.as_raw_fd(),
            Memory::Privmemfd(f) => f.as_raw_fd(),
        }
    }
}

/// A movable privmemfd.
pub fn movable(size: u64) -> io::Result<PrivMemFd> {
    let device = Device::open().map_err(io::Error::other)?;
    device
        .create(size, Options::new(Mobility::Movable))
        .map_err(io::Error::other)
}

/// Types of VM that this KVM can make, by bit.
pub fn vm_types() -> io::Result<u64> {
    let kvm = Kvm::new().map_err(os)?;
    // SAFETY: the request takes a number and touches no memory.
    let r = unsafe { libc::ioctl(kvm.as_raw_fd(), 0xAE03, KVM_CAP_VM_TYPES) };
    u64::try_from(r).map_err(|_| io::Error::last_os_error())
}

fn new_memory(provider: Provider, vm: &VmFd, size: u64) -> io::Result<Memory> {
    if provider == Provider::Privmemfd {
        return Ok(Memory::Privmemfd(movable(size)?));
    }
    let fd = vm
        .create_guest_memfd(kvm_create_guest_memfd {
            size,
            ..Default::default()
        })
        .map_err(os)?;
    // SAFETY: KVM just made this descriptor for us.
    Ok(Memory::Kvm(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// A TD that is ready to run.
pub struct Td {
    // Dropped in this order: KVM lets go of private memory while it has the
    // TD's key.
    vcpus: Vec<Vcpu>,
    /// The VM.
    pub vm: Arc<VmFd>,
    /// Its private memory: byte N is guest address N, the last page is the
    /// reset page.
    pub memory: Memory,
    shared: Arc<MmapRegion>,
    control: Arc<MmapRegion>,
    size: u64,
}

/// One vCPU.
pub struct Vcpu {
    /// Its file.
    pub fd: VcpuFd,
    /// How often user space was asked to convert memory.
    pub map_exits: u64,
    /// The errno that it answers the next time, if not 0.
    pub map_refusal: u64,
    id: u64,
    vm: Arc<VmFd>,
    control: Arc<MmapRegion>,
}

/// `struct kvm_run.tdx`: a call that KVM leaves to user space.
#[derive(Debug)]
#[repr(C)]
pub struct TdxExit {
    flags: u64,
    /// Leaf of TDG.VP.VMCALL.
    pub nr: u64,
    /// Status for the guest.
    pub ret: u64,
    /// Operands and results, by leaf.
    pub data: [u64; 5],
}

/// Why a vCPU needs user space.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Exit<'a> {
    Kvm(VcpuExit<'a>),
    Tdx(&'a mut TdxExit),
}

fn anonymous(size: u64) -> io::Result<Arc<MmapRegion>> {
    MmapRegion::new(size as usize)
        .map(Arc::new)
        .map_err(io::Error::other)
}

fn set_private(vm: &VmFd, at: Range<u64>, private: bool) -> io::Result<()> {
    vm.set_memory_attributes(kvm_memory_attributes {
        address: at.start,
        size: at.end - at.start,
        attributes: if private {
            KVM_MEMORY_ATTRIBUTE_PRIVATE.into()
        } else {
            0
        },
        flags: 0,
    })
    .map_err(os)
}

/// CPUID of a TD's vCPU, as far as it is KVM's.
pub fn set_cpuid(kvm: &Kvm, vcpu: &VcpuFd) -> io::Result<()> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(os)?;
    for e in cpuid.as_mut_slice() {
        if e.function == 1 {
            e.ecx |= X2APIC;
        }
    }
    vcpu.set_cpuid2(&cpuid).map_err(os)
}

impl Td {
    /// A TD with `size` bytes of memory at guest address 0, all private.
    pub fn new(provider: Provider, size: u64, vcpus: u64) -> io::Result<Self> {
        let td = Self::not_finalized(provider, size, vcpus)?;
        td.finalize()?;
        Ok(td)
    }

    /// The same with the image in it, before it is finalized.
    pub fn not_finalized(provider: Provider, size: u64, vcpus: u64) -> io::Result<Self> {
        Self::with_attributes(provider, size, vcpus, 0)
    }

    /// The same with TD attributes.
    pub fn with_attributes(
        provider: Provider,
        size: u64,
        vcpus: u64,
        attributes: u64,
    ) -> io::Result<Self> {
        assert!((1..=MAX_VCPUS).contains(&vcpus) && size > guest::MEMORY);
        let kvm = Kvm::new().map_err(os)?;
        let vm = Arc::new(kvm.create_vm_with_type(tdx::VM_TYPE).map_err(os)?);
        for (cap, arg) in [
            (KVM_CAP_SPLIT_IRQCHIP, 24),
            (KVM_CAP_EXIT_HYPERCALL, 1 << KVM_HC_MAP_GPA_RANGE),
        ] {
            vm.enable_cap(&kvm_enable_cap {
                cap,
                args: [arg, 0, 0, 0],
                ..Default::default()
            })
            .map_err(os)?;
        }
        tdx::init_vm(&*vm, attributes, 3)?;
        let file_size = size + 4096;
        let memory = new_memory(provider, &vm, file_size)?;
        let mut td = Td {
            vcpus: Vec::new(),
            vm,
            memory,
            shared: anonymous(file_size)?,
            control: anonymous(4096 * MAX_VCPUS)?,
            size,
        };
        td.bind(0, 0..size, 0)?;
        td.bind(1, RESET_PAGE..RESET_PAGE + 4096, size)?;
        td.region(kvm_userspace_memory_region2 {
            slot: 2,
            guest_phys_addr: CONTROL,
            memory_size: td.control.size() as u64,
            userspace_addr: td.control.as_ptr() as u64,
            ..Default::default()
        })?;
        for id in 0..vcpus {
            let vcpu = td.vcpu(&kvm, id)?;
            td.vcpus.push(vcpu);
        }
        td.add_initial(0, &guest::image())?;
        td.add_initial(RESET_PAGE, &guest::reset_page())?;
        Ok(td)
    }

    /// Adds content to a TD that is not finalized.
    pub fn add_initial(&self, gpa: u64, content: &[u8]) -> io::Result<()> {
        tdx::init_memory(&self.vcpus[0].fd, gpa, content)
    }

    /// Ends the building of a TD: it can run from now on.
    pub fn finalize(&self) -> io::Result<()> {
        tdx::finalize(&*self.vm)
    }

    fn region(&self, region: kvm_userspace_memory_region2) -> io::Result<()> {
        // SAFETY: the memory behind a slot lives as long as the VM.
        unsafe { self.vm.set_user_memory_region2(region) }.map_err(os)
    }

    fn bind(&self, slot: u32, at: Range<u64>, offset: u64) -> io::Result<()> {
        self.bind_file(slot, at, &self.memory, offset)
    }

    /// Gives the TD private memory from a file, all of it private.
    pub fn bind_file(
        &self,
        slot: u32,
        at: Range<u64>,
        file: &Memory,
        offset: u64,
    ) -> io::Result<()> {
        self.region(kvm_userspace_memory_region2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: at.start,
            memory_size: at.end - at.start,
            userspace_addr: self.shared.as_ptr() as u64 + offset,
            guest_memfd_offset: offset,
            guest_memfd: file.as_raw_fd() as u32,
            ..Default::default()
        })?;
        set_private(&self.vm, at, true)
    }

    /// More private memory from where the TD's own is.
    pub fn more_memory(&self, size: u64) -> io::Result<Memory> {
        let provider = match self.memory {
            Memory::Kvm(_) => Provider::Kvm,
            Memory::Privmemfd(_) => Provider::Privmemfd,
        };
        new_memory(provider, &self.vm, size)
    }

    /// Takes a slot away.
    pub fn unbind(&self, slot: u32) -> io::Result<()> {
        self.region(kvm_userspace_memory_region2 {
            slot,
            ..Default::default()
        })
    }

    fn vcpu(&self, kvm: &Kvm, id: u64) -> io::Result<Vcpu> {
        let fd = self.vm.create_vcpu(id).map_err(os)?;
        set_cpuid(kvm, &fd)?;
        tdx::init_vcpu(&fd, 0)?;
        Ok(Vcpu {
            fd,
            map_exits: 0,
            map_refusal: 0,
            id,
            vm: Arc::clone(&self.vm),
            control: Arc::clone(&self.control),
        })
    }

    /// Takes the vCPUs, to run them in threads. They must be gone before the
    /// TD is.
    pub fn take_vcpus(&mut self) -> Vec<Vcpu> {
        std::mem::take(&mut self.vcpus)
    }

    /// The control block of a vCPU.
    pub fn control(&self, id: u64) -> Control<'_> {
        Control::new(&self.control, id)
    }

    /// Test memory.
    pub fn test_memory(&self) -> Range<u64> {
        guest::MEMORY..self.size
    }

    /// Bytes of the image, at the start of the private memory.
    pub fn image_size(&self) -> u64 {
        IMAGE_SIZE
    }

    /// The host's view of shared memory: guest addresses count from 0.
    pub fn shared(&self) -> &MmapRegion {
        &self.shared
    }
}

impl Vcpu {
    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its control block.
    pub fn control(&self) -> Control<'_> {
        Control::new(&self.control, self.id)
    }

    /// Has KVM map private memory that the guest has not accepted.
    pub fn pre_fault(&self, at: Range<u64>) -> io::Result<()> {
        let mut left = kvm_pre_fault_memory {
            gpa: at.start,
            size: at.end - at.start,
            ..Default::default()
        };
        while left.size > 0 {
            // SAFETY: the kernel reads and writes `left`, which is ours.
            let r =
                unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_PRE_FAULT_MEMORY, &raw mut left) };
            if r < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Runs a command to its end; the result is the guest's.
    pub fn command(&mut self, command: Command, args: [u64; 3]) -> io::Result<u64> {
        self.command_with(command, args, |exit| Err(other(format!("{exit:?}"))))
    }

    /// The same, with someone who answers what the guest asks of the VMM.
    pub fn command_with(
        &mut self,
        command: Command,
        args: [u64; 3],
        answer: impl FnMut(Exit<'_>) -> io::Result<()>,
    ) -> io::Result<u64> {
        let c = self.control();
        c.set(Field::Command, command as u64);
        c.set(Field::Start, args[0]);
        c.set(Field::End, args[1]);
        c.set(Field::Step, args[2]);
        c.set(Field::Result, !0);
        self.run_with(answer)?;
        Ok(self.control().get(Field::Result))
    }

    /// Runs until the guest has done its command.
    pub fn run(&mut self) -> io::Result<()> {
        self.run_with(|exit| Err(other(format!("{exit:?}"))))
    }

    fn run_with(&mut self, mut answer: impl FnMut(Exit<'_>) -> io::Result<()>) -> io::Result<()> {
        loop {
            match self.fd.run() {
                Ok(VcpuExit::IoOut(guest::PORT, _)) => return Ok(()),
                Ok(VcpuExit::Hypercall(h)) if h.nr == KVM_HC_MAP_GPA_RANGE => {
                    let at = h.args[0]..h.args[0] + 4096 * h.args[1];
                    let private = h.args[2] & TO_PRIVATE != 0;
                    self.map_exits += 1;
                    match std::mem::take(&mut self.map_refusal) {
                        0 => set_private(&self.vm, at, private)?,
                        errno => *h.ret = errno,
                    }
                }
                Ok(VcpuExit::Unsupported(KVM_EXIT_TDX)) => {
                    let run = self.fd.get_kvm_run();
                    // SAFETY: KVM says that this is what the union holds, all of
                    // which are plain numbers.
                    let tdx = unsafe { &mut *(&raw mut run.__bindgen_anon_1).cast::<TdxExit>() };
                    answer(Exit::Tdx(tdx))?;
                }
                Ok(exit) => {
                    let id = self.id;
                    answer(Exit::Kvm(exit)).map_err(|e| other(format!("vCPU {id}: {e}")))?;
                }
                Err(e) if e.errno() == libc::EINTR => {}
                Err(e) if e.errno() == libc::EFAULT => {
                    let run = self.fd.get_kvm_run();
                    // SAFETY: all variants of the union are plain numbers.
                    let fault = unsafe { run.__bindgen_anon_1.memory_fault };
                    let private = fault.flags & u64::from(KVM_MEMORY_EXIT_FLAG_PRIVATE) != 0;
                    return Err(other(format!(
                        "vCPU {}: memory fault at {:#x}, private {private}",
                        self.id, fault.gpa
                    )));
                }
                Err(e) => return Err(os(e)),
            }
        }
    }
}
