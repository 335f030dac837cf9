// SPDX-License-Identifier: GPL-2.0
//! KVM_MEMORY_ENCRYPT_OP for TDs.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::kvm_cpuid_entry2;

/// `KVM_X86_TDX_VM`.
pub const VM_TYPE: u64 = 5;
/// CPUID entries KVM may name as configurable.
const MAX_CPUID: usize = 256;

const KVM_MEMORY_ENCRYPT_OP: libc::c_ulong = 0xC008_AEBA;

/// `enum kvm_tdx_cmd_id`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Id {
    Capabilities = 0,
    InitVm = 1,
    InitVcpu = 2,
    InitMemRegion = 3,
    FinalizeVm = 4,
    GetCpuid = 5,
}

#[derive(Debug, Default)]
#[repr(C)]
pub struct Cmd {
    /// [`Id`], or something else.
    pub id: u32,
    pub flags: u32,
    pub data: u64,
    pub hw_error: u64,
}

/// KVM_MEMORY_ENCRYPT_OP as it is.
pub fn raw(fd: &impl AsRawFd, cmd: &mut Cmd) -> io::Result<()> {
    // SAFETY: the kernel reads and writes `cmd` and, through `data`, what the
    // callers own for the call.
    let r = unsafe { libc::ioctl(RawFd::from(fd.as_raw_fd()), KVM_MEMORY_ENCRYPT_OP, cmd) };
    if r >= 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

fn op(fd: &impl AsRawFd, id: Id, flags: u32, data: u64) -> io::Result<()> {
    let mut cmd = Cmd {
        id: id as u32,
        flags,
        data,
        hw_error: 0,
    };
    raw(fd, &mut cmd).map_err(|e| {
        let text = format!("{id:?}: {e}, SEAMCALL status {:#x}", cmd.hw_error);
        io::Error::new(e.kind(), text)
    })
}

/// `struct kvm_cpuid2` with room for entries.
#[repr(C)]
pub struct Cpuid {
    /// Entries in use.
    pub nent: u32,
    padding: u32,
    /// The entries.
    pub entries: [kvm_cpuid_entry2; MAX_CPUID],
}

/// `struct kvm_tdx_capabilities`.
#[repr(C)]
pub struct Capabilities {
    /// TD attributes that may be set.
    pub attributes: u64,
    /// Extended features that may be enabled.
    pub xfam: u64,
    tdvmcallinfo: [u64; 4],
    reserved: [u64; 250],
    cpuid: Cpuid,
}

/// KVM_TDX_CAPABILITIES.
pub fn capabilities(vm: &impl AsRawFd) -> io::Result<Box<Capabilities>> {
    // SAFETY: all fields are integers.
    let mut caps: Box<Capabilities> = Box::new(unsafe { std::mem::zeroed() });
    caps.cpuid.nent = MAX_CPUID as u32;
    op(vm, Id::Capabilities, 0, &raw mut *caps as u64)?;
    Ok(caps)
}

impl Capabilities {
    /// Leaves whose values a VMM may configure.
    pub fn cpuid(&self) -> &[kvm_cpuid_entry2] {
        &self.cpuid.entries[..self.cpuid.nent as usize]
    }
}

/// `struct kvm_tdx_init_vm`.
#[repr(C)]
pub struct InitVm {
    /// TD attributes.
    pub attributes: u64,
    /// Extended features.
    pub xfam: u64,
    mr: [u64; 18],
    /// Has to be 0.
    pub reserved: [u64; 12],
    /// CPUID values.
    pub cpuid: Cpuid,
}

impl InitVm {
    /// A TD with 48-bit guest physical addresses.
    pub fn new(attributes: u64, xfam: u64) -> Box<Self> {
        // SAFETY: all fields are integers.
        let mut init: Box<InitVm> = Box::new(unsafe { std::mem::zeroed() });
        (init.attributes, init.xfam) = (attributes, xfam);
        init.cpuid.nent = 1;
        init.cpuid.entries[0] = kvm_cpuid_entry2 {
            function: 0x8000_0008,
            eax: 48 << 16,
            ..Default::default()
        };
        init
    }
}

/// KVM_TDX_INIT_VM.
pub fn init_vm(vm: &impl AsRawFd, attributes: u64, xfam: u64) -> io::Result<()> {
    let mut init = InitVm::new(attributes, xfam);
    op(vm, Id::InitVm, 0, &raw mut *init as u64)
}

/// KVM_TDX_GET_CPUID, with room for `room` entries.
pub fn get_cpuid(vcpu: &impl AsRawFd, room: u32) -> io::Result<Box<Cpuid>> {
    // SAFETY: all fields are integers.
    let mut cpuid: Box<Cpuid> = Box::new(unsafe { std::mem::zeroed() });
    cpuid.nent = room.min(MAX_CPUID as u32);
    let mut cmd = Cmd {
        id: Id::GetCpuid as u32,
        data: &raw mut *cpuid as u64,
        ..Default::default()
    };
    raw(vcpu, &mut cmd)?;
    Ok(cpuid)
}

/// KVM_TDX_INIT_VCPU; `rcx` is what the vCPU starts with in RCX and R8.
pub fn init_vcpu(vcpu: &impl AsRawFd, rcx: u64) -> io::Result<()> {
    op(vcpu, Id::InitVcpu, 0, rcx)
}

/// `struct kvm_tdx_init_mem_region`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
#[allow(missing_docs)]
pub struct MemRegion {
    pub source: u64,
    pub gpa: u64,
    pub pages: u64,
}

/// A page as KVM wants the source of an image.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// KVM_TDX_INIT_MEM_REGION: adds and measures pages of the initial image.
pub fn init_memory(vcpu: &impl AsRawFd, gpa: u64, content: &[u8]) -> io::Result<()> {
    for (i, chunk) in content.chunks(4096).enumerate() {
        let mut page = Box::new(Page([0; 4096]));
        page.0[..chunk.len()].copy_from_slice(chunk);
        let mut region = MemRegion {
            source: &raw const *page as u64,
            gpa: gpa + 4096 * i as u64,
            pages: 1,
        };
        op(vcpu, Id::InitMemRegion, 1, &raw mut region as u64)?;
    }
    Ok(())
}

/// KVM_TDX_FINALIZE_VM: the TD can run.
pub fn finalize(vm: &impl AsRawFd) -> io::Result<()> {
    op(vm, Id::FinalizeVm, 0, 0)
}
