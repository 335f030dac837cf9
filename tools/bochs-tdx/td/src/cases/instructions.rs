// SPDX-License-Identifier: GPL-2.0
//! SEAMCALL, TDCALL and others where they must not be: in user mode of the host, and
//! in a TD.

use std::arch::asm;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::{booted, check, equal, Counters, Options, Outcome};
use crate::guest::{self, Field, Instruction, GP_VECTOR, UD_VECTOR};

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

/// In a TD, TDCALL outside ring 0 is a general protection fault and never reaches
/// the TDX module (Intel TDX CPU Architectural Extensions). The others do, and the
/// module has them fault (intel/tdx-module, `tdx_td_dispatcher.c`); but VMCALL is a
/// virtualization exception.
pub fn guest_faults(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    const VMCALL_REASON: u64 = 18;
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        for (instruction, cpl, vector) in [
            (Instruction::Tdcall, 3, GP_VECTOR),
            (Instruction::Seamcall, 0, UD_VECTOR),
            (Instruction::Rdpmc, 0, GP_VECTOR),
            (Instruction::Vmxoff, 0, UD_VECTOR),
            (Instruction::Mwait, 0, UD_VECTOR),
            (Instruction::Tdcall, 3, GP_VECTOR),
        ] {
            let what = |part| format!("{part} of {instruction:?} at CPL {cpl}");
            let got = v.command(guest::Command::Fault, [cpl, instruction as u64, 0])?;
            let c = v.control();
            equal(&what("vector"), got, vector)?;
            equal(&what("error code"), c.get(Field::BadAddress), 0)?;
            equal(&what("offset"), c.get(Field::BadGot), 0)?;
            equal(&what("CPL"), c.get(Field::BadWant) & 3, cpl)?;
        }
        let c = v.control();
        equal("virtualization exceptions", c.get(Field::Exceptions), 0)?;
        let got = v.command(guest::Command::Fault, [0, Instruction::Vmcall as u64, 0])?;
        equal("result of VMCALL", got, 0)?;
        let c = v.control();
        equal("virtualization exceptions", c.get(Field::Exceptions), 1)?;
        equal("reason", c.get(Field::Reason), VMCALL_REASON)?;
    }
    Ok(Outcome::Passed)
}
