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
enum Id {
    Capabilities = 0,
    InitVm = 1,
    InitVcpu = 2,
    InitMemRegion = 3,
    FinalizeVm = 4,
}

#[repr(C)]
struct Cmd {
    id: u32,
    flags: u32,
    data: u64,
    hw_error: u64,
}

fn op(fd: &impl AsRawFd, id: Id, flags: u32, data: u64) -> io::Result<()> {
    let mut cmd = Cmd {
        id: id as u32,
        flags,
        data,
        hw_error: 0,
    };
    // SAFETY: the kernel reads and writes `cmd` and, through `data`, what the
    // callers below own for the call.
    let r = unsafe {
        libc::ioctl(
            RawFd::from(fd.as_raw_fd()),
            KVM_MEMORY_ENCRYPT_OP,
            &raw mut cmd,
        )
    };
    if r >= 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    let text = format!("{id:?}: {e}, SEAMCALL status {:#x}", cmd.hw_error);
    Err(io::Error::new(e.kind(), text))
}

#[repr(C)]
struct Cpuid {
    nent: u32,
    padding: u32,
    entries: [kvm_cpuid_entry2; MAX_CPUID],
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

#[repr(C)]
struct InitVm {
    attributes: u64,
    xfam: u64,
    mr: [u64; 18],
    reserved: [u64; 12],
    cpuid: Cpuid,
}

/// KVM_TDX_INIT_VM: a TD with 48-bit guest physical addresses.
pub fn init_vm(vm: &impl AsRawFd, attributes: u64, xfam: u64) -> io::Result<()> {
    // SAFETY: all fields are integers.
    let mut init: Box<InitVm> = Box::new(unsafe { std::mem::zeroed() });
    (init.attributes, init.xfam) = (attributes, xfam);
    init.cpuid.nent = 1;
    init.cpuid.entries[0] = kvm_cpuid_entry2 {
        function: 0x8000_0008,
        eax: 48 << 16,
        ..Default::default()
    };
    op(vm, Id::InitVm, 0, &raw mut *init as u64)
}

/// KVM_TDX_INIT_VCPU; `rcx` is what the vCPU starts with in RCX and R8.
pub fn init_vcpu(vcpu: &impl AsRawFd, rcx: u64) -> io::Result<()> {
    op(vcpu, Id::InitVcpu, 0, rcx)
}

#[repr(C)]
struct MemRegion {
    source: u64,
    gpa: u64,
    pages: u64,
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
