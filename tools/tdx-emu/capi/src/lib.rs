// SPDX-License-Identifier: GPL-2.0
//! The TDX module model as a static library with a C interface.
//!
//! `include/tdx_emu.h` describes the functions; their documentation is not
//! repeated here. One module exists per process. The emulator runs all logical
//! processors on one thread, or serialises its calls.

mod faults;
mod machine;

use std::ffi::CString;
use std::sync::OnceLock;

use machine::Bus;
use tdx_emu_model::config::MAX_CMRS;
use tdx_emu_model::{
    Config, CpuidState, GuestEvent, GuestOutcome, Module, MsrAccess, Outcome, Regs, VcpuControls,
    VeInfo,
};

static MODULE: OnceLock<Module<Bus>> = OnceLock::new();

fn module() -> &'static Module<Bus> {
    MODULE
        .get()
        .unwrap_or_else(|| machine::panic("no call before tdx_emu_init()"))
}

/// `struct tdx_regs`: the order of [`Regs::array`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CRegs([u64; 15]);

impl CRegs {
    fn get(&self) -> Regs {
        Regs::from_array(self.0)
    }
    fn set(&mut self, regs: &Regs) {
        self.0 = regs.array();
    }
}

/// `struct tdx_platform`.
#[repr(C)]
pub struct CPlatform {
    max_pa: u32,
    hkid_bits: u32,
    first_private_hkid: u32,
    lps: u32,
    memory: u64,
    tsc_hz: u64,
    cipher: bool,
}

/// `struct tdx_vcpu_controls`.
#[repr(C)]
pub struct CControls([u64; 20]);

impl From<VcpuControls> for CControls {
    fn from(c: VcpuControls) -> Self {
        let [p0, p1, p2, p3, p4, p5] = c.pages;
        CControls([
            c.tdr,
            c.tdvpr,
            c.hkid.into(),
            c.shared_bit.into(),
            c.eptp,
            c.shared_eptp,
            c.posted_vector,
            c.posted_descriptor,
            c.xfam,
            c.attributes,
            c.monitor.into(),
            c.tsc_offset,
            c.tsc_multiplier,
            c.index,
            p0,
            p1,
            p2,
            p3,
            p4,
            p5,
        ])
    }
}

/// `struct tdx_ve_info`.
#[repr(C)]
pub struct CVeInfo {
    reason: u64,
    qualification: u64,
    gla: u64,
    gpa: u64,
    instruction: u64,
}

/// `enum tdx_call`.
#[repr(C)]
pub enum CCall {
    /// `TDX_CALL_DONE`
    Done,
    /// `TDX_CALL_ENTERED`
    Entered,
    /// `TDX_CALL_VMFAILINVALID`
    VmFailInvalid,
}

/// `enum tdx_guest`.
#[repr(C)]
pub enum CGuest {
    /// `TDX_GUEST_EXIT`
    Exit,
    /// `TDX_GUEST_STAYS`
    Stays,
    /// `TDX_GUEST_VE`
    VirtException,
    /// `TDX_GUEST_NONE`
    None,
}

fn outcome(o: GuestOutcome, regs: &mut CRegs) -> CGuest {
    match o {
        GuestOutcome::Exit(r) => {
            regs.set(&r);
            CGuest::Exit
        }
        GuestOutcome::InGuest(_) => CGuest::Stays,
        GuestOutcome::VirtException(gpa) => {
            regs.set(&Regs {
                rcx: gpa,
                ..Regs::default()
            });
            CGuest::VirtException
        }
        GuestOutcome::None => CGuest::None,
    }
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_init(p: &CPlatform) {
    let mut cmrs = [(0, 0); MAX_CMRS];
    cmrs[0] = (0, p.memory);
    let config = Config {
        max_pa: p.max_pa,
        hkid_bits: p.hkid_bits,
        first_private_hkid: p.first_private_hkid as u16,
        lps: p.lps as usize,
        cmrs,
        pml5: false,
        tsc_hz: p.tsc_hz,
        cipher: p.cipher,
        ..Config::new()
    };
    if MODULE
        .set(Module::new(Bus::new(p.memory, p.cipher), config))
        .is_err()
    {
        machine::panic("tdx_emu_init() called twice");
    }
}

/// Tells which line of TD memory somebody else wrote, if that is why.
fn report_violation() {
    if let Some(v) = module().violation() {
        let line = format!("{{\"violation\":\"{:#x}\",\"count\":{}}}", v.pa, v.count);
        machine::log(&c_string(&line));
    }
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_seamcall(lp: u32, regs: &mut CRegs) -> CCall {
    let mut r = regs.get();
    let outcome = module().seamcall(lp as usize, &mut r);
    regs.set(&r);
    match outcome {
        Outcome::Done => CCall::Done,
        Outcome::Entered => CCall::Entered,
        Outcome::VmFailInvalid => {
            report_violation();
            CCall::VmFailInvalid
        }
    }
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_controls(lp: u32, out: &mut CControls) -> bool {
    match module().vcpu_controls(lp as usize) {
        Some(c) => {
            *out = c.into();
            true
        }
        None => false,
    }
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_load(lp: u32, regs: &mut CRegs, rip: &mut u64) {
    if let Some((r, at)) = module().guest_load(lp as usize) {
        regs.set(&r);
        *rip = at;
    }
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_save(lp: u32, regs: &CRegs, rip: u64, interrupt_pending: bool) {
    module().guest_save(lp as usize, &regs.get(), rip, interrupt_pending);
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_take_pending_nmi(lp: u32) -> bool {
    module().take_pending_nmi(lp as usize)
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_tdcall(lp: u32, guest: &CRegs, rip: u64, regs: &mut CRegs) -> CGuest {
    outcome(module().tdcall(lp as usize, &guest.get(), rip), regs)
}

fn event(lp: u32, e: GuestEvent, regs: &mut CRegs) -> CGuest {
    outcome(module().guest_event(lp as usize, e), regs)
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_ept_violation(lp: u32, gpa: u64, qual: u64, regs: &mut CRegs) -> CGuest {
    let e = GuestEvent::EptViolation {
        gpa,
        qual,
        rip_adv: 0,
    };
    event(lp, e, regs)
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_exit(
    lp: u32,
    reason: u16,
    qual: u64,
    intr_info: u64,
    regs: &mut CRegs,
) -> CGuest {
    let e = GuestEvent::Exit {
        reason,
        qual,
        intr_info,
    };
    event(lp, e, regs)
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_poison(lp: u32, regs: &mut CRegs) -> CGuest {
    event(lp, GuestEvent::Poison, regs)
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_reveal(hkid: u16, pa: u64) -> bool {
    let good = module().reveal_page(hkid, pa).is_ok();
    if !good {
        report_violation();
    }
    good
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_conceal(hkid: u16, pa: u64) {
    module().conceal_page(hkid, pa);
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_virt_exception(lp: u32, info: &CVeInfo) -> bool {
    let info = VeInfo {
        reason: info.reason,
        qualification: info.qualification,
        gla: info.gla,
        gpa: info.gpa,
        instruction: info.instruction,
    };
    module().virt_exception(lp as usize, &info)
}

/// `struct tdx_cpuid_state`.
#[repr(C)]
pub struct CCpuidState {
    cr4: u64,
    supervisor: bool,
    long_mode: bool,
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_cpuid(
    lp: u32,
    leaf: u32,
    sub: u32,
    state: &CCpuidState,
    out: &mut [u32; 4],
) -> bool {
    let state = CpuidState {
        supervisor: state.supervisor,
        cr4: state.cr4,
        long_mode: state.long_mode,
    };
    let values = module().guest_cpuid(lp as usize, leaf, sub, &state);
    if let Some(v) = values {
        *out = v;
    }
    values.is_some()
}

/// `enum tdx_msr`.
#[repr(C)]
pub enum CMsr {
    /// `TDX_MSR_NATIVE`
    Native,
    /// `TDX_MSR_VALUE`
    Value,
    /// `TDX_MSR_VE`
    VirtException,
    /// `TDX_MSR_GP`
    Fault,
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_msr(lp: u32, index: u32, write: bool, value: &mut u64) -> CMsr {
    match module().guest_msr(lp as usize, index, write.then_some(*value)) {
        MsrAccess::Native => CMsr::Native,
        MsrAccess::Value(v) => {
            *value = v;
            CMsr::Value
        }
        MsrAccess::VirtException => CMsr::VirtException,
        MsrAccess::Fault => CMsr::Fault,
    }
}

/// See `tdx_emu.h`.
#[no_mangle]
pub extern "C" fn tdx_emu_read(hkid: u16, pa: u64) -> u64 {
    module().read_private(hkid, pa)
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "?")).unwrap_or_default()
}
