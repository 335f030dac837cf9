// SPDX-License-Identifier: GPL-2.0
//! SEAMCALL and TDCALL where they must not be: in user mode of the host.

use std::arch::asm;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::{check, Counters, Options, Outcome};

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
