// SPDX-License-Identifier: GPL-2.0
//! One vCPU: start a piece of guest code, run it, see how it ended.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;

use kvm_bindings::{
    kvm_pre_fault_memory, kvm_regs, kvm_segment, KVMIO, KVM_MAX_CPUID_ENTRIES,
    KVM_MEMORY_EXIT_FLAG_PRIVATE,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::MmapRegion;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;
use vmm_sys_util::signal::{register_signal_handler, Killable, SIGRTMIN};

use crate::guest::{Control, Entry};
use crate::layout::{CODE_SELECTOR, DATA_SELECTOR, GDT, GDT_ENTRIES, PML4};
use crate::vm::os;

ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);

const CR0: u64 = 0x8005_0033; // PE MP ET NE WP AM PG
const CR4: u64 = 1 << 5; // PAE
const EFER: u64 = 1 << 8 | 1 << 10; // LME LMA

/// Why a vCPU came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The code ended, with this result.
    Done(u64),
    /// KVM_EXIT_MEMORY_FAULT.
    MemoryFault {
        /// First guest address.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// Whether the access was to private memory.
        private: bool,
        /// EFAULT or EHWPOISON.
        errno: i32,
    },
    /// A [`Kick`]: where it was.
    Kicked(Registers),
    /// Any other exit.
    Other(String),
}

/// Where a vCPU was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registers {
    /// First argument of the code, see [`Entry`].
    pub rdi: u64,
    /// All of them, to be read by people.
    pub all: String,
}

impl From<kvm_regs> for Registers {
    fn from(r: kvm_regs) -> Self {
        Self {
            rdi: r.rdi,
            all: format!("{r:x?}"),
        }
    }
}

/// Has a vCPU leave its guest, whatever that is at.
#[derive(Debug, Clone)]
pub struct Kick(Arc<AtomicBool>);

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Kick {
    fn new() -> io::Result<Self> {
        static HANDLER: Once = Once::new();
        let mut result = Ok(());
        HANDLER.call_once(|| result = register_signal_handler(SIGRTMIN(), nothing));
        result.map_err(io::Error::from)?;
        Ok(Self(Arc::default()))
    }

    /// Interrupts the thread that runs the vCPU. To be repeated until that has ended: the signal
    /// is lost on a thread that is just about to enter the guest.
    pub fn send<T>(&self, thread: &JoinHandle<T>) -> io::Result<()> {
        self.0.store(true, Ordering::Relaxed);
        Ok(thread.kill(SIGRTMIN())?)
    }
}

/// A vCPU in 64-bit mode.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    id: u64,
    low: Arc<MmapRegion>,
    kick: Kick,
    // KVM finishes the instruction of the last exit in the next run.
    unfinished: bool,
}

fn segment(selector: u16) -> kvm_segment {
    let code = selector == CODE_SELECTOR;
    kvm_segment {
        base: 0,
        limit: !0,
        selector,
        type_: if code { 0xb } else { 0x3 },
        present: 1,
        s: 1,
        l: code.into(),
        db: (!code).into(),
        g: 1,
        ..Default::default()
    }
}

impl Vcpu {
    pub(crate) fn new(kvm: &Kvm, fd: VcpuFd, id: u64, low: Arc<MmapRegion>) -> io::Result<Self> {
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(os)?;
        fd.set_cpuid2(&cpuid).map_err(os)?;
        let mut s = fd.get_sregs().map_err(os)?;
        (s.cr0, s.cr3, s.cr4, s.efer) = (CR0, PML4, CR4, EFER);
        s.gdt.base = GDT;
        s.gdt.limit = (GDT_ENTRIES.len() * 8 - 1) as u16;
        s.cs = segment(CODE_SELECTOR);
        let data = segment(DATA_SELECTOR);
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
        fd.set_sregs(&s).map_err(os)?;
        Ok(Self {
            fd,
            id,
            low,
            kick: Kick::new()?,
            unfinished: false,
        })
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What brings it back from its guest.
    pub fn kick(&self) -> Kick {
        self.kick.clone()
    }

    /// Its control block.
    pub fn control(&self) -> Control<'_> {
        Control::new(&self.low, self.id)
    }

    /// Points the vCPU at a piece of guest code.
    pub fn start(&mut self, entry: Entry, args: [u64; 3]) -> io::Result<()> {
        if std::mem::take(&mut self.unfinished) {
            self.fd.set_kvm_immediate_exit(1);
            let end = self.fd.run().map(drop);
            self.fd.set_kvm_immediate_exit(0);
            match end {
                Err(e) if e.errno() == libc::EINTR => {}
                other => other.map_err(os)?,
            }
        }
        let mut r = self.fd.get_regs().map_err(os)?;
        r.rip = entry.address();
        (r.rdi, r.rsi, r.rdx) = args.into();
        r.rflags = 2;
        self.fd.set_regs(&r).map_err(os)
    }

    /// Runs until the code ends or needs help. Running again goes on.
    pub fn run(&mut self) -> io::Result<Exit> {
        loop {
            let exit = self.fd.run();
            // KVM reports memory faults with an errno, which the crate drops.
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
            match exit {
                Ok(VcpuExit::Hlt) => {
                    return Ok(Exit::Done(self.fd.get_regs().map_err(os)?.rax));
                }
                Ok(VcpuExit::MemoryFault { flags, gpa, size }) => {
                    let private = flags & u64::from(KVM_MEMORY_EXIT_FLAG_PRIVATE) != 0;
                    return Ok(Exit::MemoryFault {
                        gpa,
                        size,
                        private,
                        errno,
                    });
                }
                Ok(other) => {
                    let mut text = format!("{other:?}");
                    // Tells a fault of the guest from a processor gone astray.
                    if let Ok(regs) = self.fd.get_regs() {
                        text += &format!(" at {:#x}", regs.rip);
                    }
                    self.unfinished = true;
                    return Ok(Exit::Other(text));
                }
                Err(e) if e.errno() == libc::EINTR => {
                    if self.kick.0.swap(false, Ordering::Relaxed) {
                        let regs = self.fd.get_regs().map_err(os)?;
                        return Ok(Exit::Kicked(regs.into()));
                    }
                }
                Err(e) => return Err(os(e)),
            }
        }
    }

    /// [`Vcpu::start`] and [`Vcpu::run`] in one.
    pub fn call(&mut self, entry: Entry, args: [u64; 3]) -> io::Result<Exit> {
        self.start(entry, args)?;
        self.run()
    }

    /// Reads the 8-byte cell at a guest address.
    pub fn read(&mut self, gpa: u64) -> io::Result<Exit> {
        self.call(Entry::Read, [gpa, 0, 0])
    }

    /// Writes the 8-byte cell at a guest address.
    pub fn write(&mut self, gpa: u64, value: u64) -> io::Result<Exit> {
        self.call(Entry::Write, [gpa, value, 0])
    }

    /// Counts cells that are not zero; touches every `step` bytes.
    pub fn count(&mut self, at: Range<u64>, step: u64) -> io::Result<Exit> {
        self.call(Entry::Count, [at.start, at.end, step])
    }

    /// `KVM_PRE_FAULT_MEMORY`: maps guest addresses before they are used.
    pub fn prefault(&self, at: Range<u64>) -> io::Result<()> {
        let mut arg = kvm_pre_fault_memory {
            gpa: at.start,
            size: at.end - at.start,
            ..Default::default()
        };
        loop {
            // SAFETY: KVM reads and writes one structure, which is ours.
            let ret = unsafe { ioctl_with_mut_ref(&self.fd, KVM_PRE_FAULT_MEMORY(), &mut arg) };
            match io::Error::last_os_error() {
                _ if ret == 0 && arg.size == 0 => return Ok(()),
                _ if ret == 0 => {}
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            }
        }
    }
}
