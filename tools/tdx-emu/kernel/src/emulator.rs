// SPDX-License-Identifier: GPL-2.0

//! The one TDX module, and its answers.

use crate::{
    counters::{
        End,
        COUNTERS, //
    },
    ffi,
    glue::{
        self,
        Answering,
        InTrap, //
    },
    host::Host,
    owned::OWNED, //
};
use core::{
    cell::UnsafeCell,
    sync::atomic::{
        AtomicU32,
        Ordering::Relaxed, //
    }, //
};
use kernel::{
    prelude::*,
    sync::global_lock, //
};
use tdx_emu_model::{
    Config,
    GuestOutcome,
    Module,
    Outcome,
    Regs, //
};

/// Bit 63 of RAX: the call is for the P-SEAMLDR.
const SEAMLDR: u64 = 1 << 63;
/// How long a guest runs before it looks for interrupts again, in parts of a millisecond.
const LOOK_PER_MS: u64 = 50;

/// The guest's longest stay per entry, in microseconds.
pub(crate) static BURST_US: AtomicU32 = AtomicU32::new(0);

struct Instance(UnsafeCell<Module<Host>>);

// SAFETY: Shared access is that of `Module`, which is `Sync` as `Host` is; `configure` is
// exclusive by its contract.
unsafe impl Sync for Instance {}

static INSTANCE: Instance = Instance(UnsafeCell::new(Module::new(Host::new(), Config::new())));

/// The module.
pub(crate) fn module() -> &'static Module<Host> {
    // SAFETY: The caller of `configure` sees to it that nobody has this reference meanwhile.
    unsafe { &*INSTANCE.0.get() }
}

/// Sets the machine and the platform.
///
/// # Safety
///
/// There must be no other access to the module: SEAMCALL is not answered, the debugfs files are
/// not there.
pub(crate) unsafe fn configure(host: Host, config: Config) {
    // SAFETY: By the contract of the function.
    let module = unsafe { &mut *INSTANCE.0.get() };
    module.set_lps(config.lps);
    module.machine = host;
    module.config = config;
}

global_lock! {
    // SAFETY: `start` is called by the module's `init` before anything else uses the lock.
    unsafe(uninit) static SWITCH: Mutex<Option<Answering>> = None;
}

/// SEAMCALL is answered while this exists.
pub(crate) struct Running(());

impl Running {
    /// Process context.
    ///
    /// # Safety
    ///
    /// Must be called once.
    pub(crate) unsafe fn start() -> Result<Self> {
        // SAFETY: By the contract of the function.
        unsafe { SWITCH.init() };
        *SWITCH.lock() = Some(Answering::start()?);
        Ok(Self(()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *SWITCH.lock() = None;
        // SAFETY: The notifier is gone and with it all calls under way; the debugfs files went
        // before `self`.
        unsafe { configure(Host::new(), Config::new()) };
    }
}

/// Makes the module one that has just been loaded. Process context.
///
/// # Errors
///
/// `EBUSY`: there are TDs.
pub(crate) fn reset() -> Result {
    let mut switch = SWITCH.lock();
    // Nobody is in a call from here on, so no TD can appear or go.
    *switch = None;
    let idle = OWNED.tds().next().is_none();
    if idle {
        module().reset();
    }
    *switch = Some(Answering::start()?);
    if idle {
        Ok(())
    } else {
        Err(EBUSY)
    }
}

fn load(g: &ffi::tdxemu_gprs) -> Regs {
    Regs {
        rax: g.rax,
        rcx: g.rcx,
        rdx: g.rdx,
        rbx: g.rbx,
        rbp: g.rbp,
        rsi: g.rsi,
        rdi: g.rdi,
        r8: g.r8,
        r9: g.r9,
        r10: g.r10,
        r11: g.r11,
        r12: g.r12,
        r13: g.r13,
        r14: g.r14,
        r15: g.r15,
    }
}

fn store(g: &mut ffi::tdxemu_gprs, r: &Regs) {
    *g = ffi::tdxemu_gprs {
        rax: r.rax,
        rcx: r.rcx,
        rdx: r.rdx,
        rbx: r.rbx,
        // No leaf changes it.
        rbp: g.rbp,
        rsi: r.rsi,
        rdi: r.rdi,
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
    };
}

/// Runs the guest until it exits; `None`: the module died.
fn run_guest(trap: &InTrap, entry: &Regs) -> Option<Regs> {
    let start = glue::tsc();
    let khz = glue::tsc_khz();
    let end = start + khz * u64::from(BURST_US.load(Relaxed)) / 1000;
    let mut look = start;
    let stop = || {
        let now = glue::tsc();
        if now < look {
            return false;
        }
        look = now + khz / LOOK_PER_MS;
        now >= end || trap.interrupt_pending()
    };
    COUNTERS.guest.entries.add(1);
    let (outcome, work) = module().run_program(trap.cpu(), entry, stop);
    let exit = match outcome {
        GuestOutcome::Exit(regs) => Some(regs),
        _ => None,
    };
    let how = exit.map_or(End::NoModule, |r| End::Status(r.rax));
    COUNTERS.guest.count(how, &work, glue::tsc() - start);
    exit
}

/// Carries out a call; `None`: VMfailInvalid.
fn seamcall(trap: &InTrap, call: &Regs) -> Option<Regs> {
    let pinned = OWNED.before(call)?;
    let mut regs = *call;
    let done = match module().seamcall(trap.cpu(), &mut regs) {
        Outcome::Done => Some(regs),
        Outcome::Entered => run_guest(trap, call),
        Outcome::VmFailInvalid => None,
    };
    if let Some(r) = &done {
        OWNED.after(call, r.rax, pinned);
    }
    done
}

/// See `glue.h`.
///
/// # Safety
///
/// `gprs` must be valid for reads and writes, and interrupts off.
#[no_mangle]
unsafe extern "C" fn tdxemu_answer(gprs: *mut ffi::tdxemu_gprs) -> bool {
    // SAFETY: By the contract of the function, nobody else has the pointer.
    let gprs = unsafe { &mut *gprs };
    // SAFETY: By the contract of the function.
    let trap = unsafe { InTrap::new() };
    let call = load(gprs);
    if call.rax & SEAMLDR != 0 {
        COUNTERS.seamldr.add(1);
        return true;
    }
    let start = glue::tsc();
    let done = seamcall(&trap, &call);
    let end = done.map_or(End::NoModule, |r| End::Status(r.rax));
    COUNTERS.count(call.rax as u16, end, glue::tsc() - start);
    match done {
        Some(r) => {
            store(gprs, &r);
            false
        }
        None => true,
    }
}
