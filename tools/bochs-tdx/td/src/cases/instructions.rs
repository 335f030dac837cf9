// SPDX-License-Identifier: GPL-2.0
//! SEAMCALL, TDCALL and others where they must not be: in user mode of the host, and
//! in a TD.

use std::arch::asm;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::pinned::Pinned;
use super::{booted, check, equal, Counters, Options, Outcome, NEEDS_TWO};
use crate::guest::{self, Field, Instruction, GP_VECTOR, PF_VECTOR, TOO_WIDE, UD_VECTOR, UNUSED};
use crate::vm::Vcpu;

const EFER_SCE: u64 = 1;
const EFER_NXE: u64 = 1 << 11;

fn seamcall() {
    // SAFETY: in user mode the instruction has no effect but a fault.
    unsafe { asm!(".byte 0x66, 0x0f, 0x01, 0xcf", inout("rax") 0u64 => _) };
}

fn tdcall() {
    // SAFETY: as above.
    unsafe { asm!(".byte 0x66, 0x0f, 0x01, 0xcc", inout("rax") 0u64 => _) };
}

/// What the program does instead of testing.
pub fn named(name: &str) -> Option<fn()> {
    match name {
        "seamcall" => Some(seamcall),
        "tdcall" => Some(tdcall),
        _ => None,
    }
}

/// SEAMCALL is a general protection fault outside ring 0, TDCALL an invalid opcode
/// outside a TD; and the host lives on (Intel TDX CPU Architectural Extensions, the
/// instructions' operation).
pub fn faults(_: &Options, _: &mut Counters) -> io::Result<Outcome> {
    for (name, signal) in [("seamcall", libc::SIGSEGV), ("tdcall", libc::SIGILL)] {
        let status = Command::new("/proc/self/exe").arg(name).status()?;
        check(status.signal() == Some(signal), || {
            format!("{name} in user mode: {status}, not signal {signal}")
        })?;
    }
    Ok(Outcome::Passed)
}

/// An instruction that does not fault, at CPL 0.
fn one(v: &mut Vcpu, instruction: Instruction, operand: u64) -> io::Result<u64> {
    v.command(guest::Command::Fault, [0, instruction as u64, operand])
}

/// In a TD, TDCALL outside ring 0 is a general protection fault and never reaches
/// the TDX module (Intel TDX CPU Architectural Extensions). The others do, and the
/// module has them fault (intel/tdx-module, `tdx_td_dispatcher.c`); but VMCALL, and MWAIT
/// in a TD without MONITOR, are virtualization exceptions. So is a write to EFER that changes more than SCE. A guest
/// physical address beyond the TD's width is a page fault with a reserved bit.
pub fn guest_faults(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    const VMCALL_REASON: u64 = 18;
    const MWAIT_REASON: u64 = 36;
    const WRMSR_REASON: u64 = 32;
    const PRESENT_RESERVED: u64 = 1 << 3 | 1;
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        for (instruction, cpl, vector, error) in [
            (Instruction::Tdcall, 3, GP_VECTOR, 0),
            (Instruction::Seamcall, 0, UD_VECTOR, 0),
            (Instruction::Rdpmc, 0, GP_VECTOR, 0),
            (Instruction::Vmxoff, 0, UD_VECTOR, 0),
            (Instruction::Load, 0, PF_VECTOR, PRESENT_RESERVED),
            (Instruction::Tdcall, 3, GP_VECTOR, 0),
        ] {
            let what = |part| format!("{part} of {instruction:?} at CPL {cpl}");
            let args = [cpl, instruction as u64, TOO_WIDE];
            let got = v.command(guest::Command::Fault, args)?;
            let c = v.control();
            equal(&what("vector"), got, vector)?;
            equal(&what("error code"), c.get(Field::BadAddress), error)?;
            equal(&what("offset"), c.get(Field::BadGot), 0)?;
            equal(&what("CPL"), c.get(Field::BadWant) & 3, cpl)?;
        }
        let exceptions = |v: &Vcpu, number| {
            let seen = v.control().get(Field::Exceptions);
            equal("virtualization exceptions", seen, number)
        };
        exceptions(v, 0)?;
        for (instruction, reason, number) in [
            (Instruction::Vmcall, VMCALL_REASON, 1),
            (Instruction::Mwait, MWAIT_REASON, 2),
        ] {
            equal("result", one(v, instruction, 0)?, 0)?;
            exceptions(v, number)?;
            equal("reason", v.control().get(Field::Reason), reason)?;
        }

        let efer = one(v, Instruction::Efer, 0)?;
        let changed = one(v, Instruction::Efer, EFER_SCE)?;
        equal("EFER", changed, efer ^ EFER_SCE)?;
        exceptions(v, 2)?;
        let refused = one(v, Instruction::Efer, EFER_SCE | EFER_NXE)?;
        equal("EFER", refused, changed)?;
        exceptions(v, 3)?;
        equal("reason", v.control().get(Field::Reason), WRMSR_REASON)?;
    }
    Ok(Outcome::Passed)
}

/// An exception counts once, also if the host is interrupted before the first instruction
/// of its handler (`fixes/0008`: the guest raised it again on top of its frame). There are so
/// many that ticks of the host's timer come there.
pub fn interrupted_exceptions(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    const NUMBER: u64 = 300_000;
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        equal("result", one(v, Instruction::Vmcalls, NUMBER)?, 0)?;
        let seen = v.control().get(Field::Exceptions);
        equal("virtualization exceptions", seen, NUMBER)?;
    }
    Ok(Outcome::Passed)
}

/// With CR0.WP clear, ring 0 writes where its page tables do not let it, and the entry does
/// not get dirty if the CPU has CET (`fixes/0004`: the emulator ended).
pub fn read_only_page(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    const WRITABLE_DIRTY: u64 = 1 << 6 | 1 << 1;
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        let entry = one(v, Instruction::WriteReadOnly, UNUSED)?;
        equal("flags of the entry", entry & WRITABLE_DIRTY, 0)?;
        equal("what is there", one(v, Instruction::Load, UNUSED)?, UNUSED)?;
        v.command(guest::Command::Write, [UNUSED, 0, 0])?;
    }
    Ok(Outcome::Passed)
}

/// SPEC_CTRL is each vCPU's own, also of two that run on one CPU in turn.
pub fn spec_ctrl(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    if o.vcpus < 2 {
        return Ok(NEEDS_TWO);
    }
    let (_td, mut vcpus) = booted(o)?;
    let _pinned = Pinned::new(0)?;
    for (v, value) in vcpus.iter_mut().zip(1..) {
        equal("SPEC_CTRL", one(v, Instruction::ReadSpecCtrl, 0)?, 0)?;
        one(v, Instruction::WriteSpecCtrl, value)?;
    }
    for (v, value) in vcpus.iter_mut().zip(1..) {
        equal("SPEC_CTRL", one(v, Instruction::ReadSpecCtrl, 0)?, value)?;
    }
    Ok(Outcome::Passed)
}
