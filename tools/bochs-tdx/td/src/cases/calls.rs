// SPDX-License-Identifier: GPL-2.0
//! What a guest asks of KVM, and of user space through KVM: every TDG.VP.VMCALL.

use std::io;

use kvm_bindings::{kvm_enable_cap, KVM_CAP_X86_USER_SPACE_MSR};
use kvm_ioctls::VcpuExit;

use super::{booted, check, equal, Counters, Options, Outcome};
use crate::guest::{Command, Field, SHARED_ALIAS, SHARED_BIT};
use crate::vm::{Exit, TdxExit, Vcpu};

/// Leaves of TDG.VP.VMCALL.
pub mod leaf {
    #![allow(missing_docs)]
    pub const CPUID: u64 = 10;
    pub const HLT: u64 = 12;
    pub const IO: u64 = 30;
    pub const RDMSR: u64 = 31;
    pub const WRMSR: u64 = 32;
    pub const MMIO: u64 = 48;
    pub const CALL_INFO: u64 = 0x10000;
    pub const MAP_GPA: u64 = 0x10001;
    pub const GET_QUOTE: u64 = 0x10002;
    pub const FATAL_ERROR: u64 = 0x10003;
    pub const EVENT_NOTIFY: u64 = 0x10004;
}

const RETRY: u64 = 1;
const INVALID_OPERAND: u64 = 1 << 63;
const ALIGN_ERROR: u64 = 1 << 63 | 2;
const UNSUPPORTED: u64 = 1 << 63 | 3;

const KVM_SYSTEM_EVENT_TDX_FATAL: u32 = 7;
const PORT: u16 = 0x200;
const VALUE: u64 = 0xA1B2_C3D4_E5F6_0718;
/// No slot is there.
const DEVICE: u64 = 0x9000_0000;
const FAR_AWAY: u64 = 0xA000_0000;
const APIC_BASE: u64 = 0x1B;
const NO_MSR: u64 = 0x1234_5678;
const CHUNK: u64 = 2 << 20;

fn low(value: u64, size: usize) -> u64 {
    value & (!0 >> (64 - 8 * size))
}

/// A call that the host may not answer with an exit to user space: R10 to R15.
pub fn call(v: &mut Vcpu, leaf: u64, args: [u64; 4]) -> io::Result<[u64; 6]> {
    call_with(v, leaf, args, |exit| {
        Err(io::Error::other(format!("{exit:?}")))
    })
}

/// A call that user space answers.
fn call_with(
    v: &mut Vcpu,
    leaf: u64,
    args: [u64; 4],
    answer: impl FnMut(Exit<'_>) -> io::Result<()>,
) -> io::Result<[u64; 6]> {
    any_call(v, [0, leaf, args[0], args[1], args[2], args[3]], answer)
}

fn any_call(
    v: &mut Vcpu,
    regs: [u64; 6],
    answer: impl FnMut(Exit<'_>) -> io::Result<()>,
) -> io::Result<[u64; 6]> {
    use Field::{Back10, Back11, Back12, Back13, Back14, Back15, R12, R13, R14, R15};
    let c = v.control();
    for (field, value) in [R12, R13, R14, R15].into_iter().zip(&regs[2..]) {
        c.set(field, *value);
    }
    v.command_with(Command::CallHost, [regs[0], regs[1], 0], answer)?;
    let c = v.control();
    Ok([Back10, Back11, Back12, Back13, Back14, Back15].map(|field| c.get(field)))
}

fn unexpected(exit: &Exit<'_>) -> io::Error {
    io::Error::other(format!("unexpected exit {exit:?}"))
}

/// TDG.VP.VMCALL ReportFatalError.
pub fn fatal_error(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        let mut seen = Vec::new();
        call_with(v, leaf::FATAL_ERROR, [0xBAAD, VALUE, 3, 4], |exit| {
            let Exit::Kvm(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_TDX_FATAL, data)) = exit else {
                return Err(unexpected(&exit));
            };
            seen = data.to_vec();
            Ok(())
        })?;
        equal("registers", seen.len(), 16)?;
        equal("R12", seen[12], 0xBAAD)?;
        equal("R13", seen[13], VALUE)?;
        equal("R15", seen[15], 4)?;
    }
    Ok(Outcome::Passed)
}

/// I/O ports.
pub fn port_io(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        for size in [1, 2, 4] {
            let mut written = Vec::new();
            let args = [size as u64, 1, PORT.into(), VALUE];
            let regs = call_with(v, leaf::IO, args, |exit| match exit {
                Exit::Kvm(VcpuExit::IoOut(PORT, data)) => {
                    written = data.to_vec();
                    Ok(())
                }
                _ => Err(unexpected(&exit)),
            })?;
            equal("status", regs[0], 0)?;
            check(written == VALUE.to_le_bytes()[..size], || {
                format!("{written:x?} written")
            })?;
            let args = [size as u64, 0, PORT.into(), 0];
            let regs = call_with(v, leaf::IO, args, |exit| match exit {
                Exit::Kvm(VcpuExit::IoIn(PORT, data)) => {
                    data.copy_from_slice(&VALUE.to_le_bytes()[..size]);
                    Ok(())
                }
                _ => Err(unexpected(&exit)),
            })?;
            equal("status", regs[0], 0)?;
            equal("value read", regs[1], low(VALUE, size))?;
        }
        for args in [
            [0, 0, 0x200, 0],
            [3, 0, 0x200, 0],
            [8, 1, 0x200, 0],
            [4, 2, 0x200, 0],
        ] {
            equal("status", call(v, leaf::IO, args)?[0], INVALID_OPERAND)?;
        }
    }
    Ok(Outcome::Passed)
}

/// Devices in shared memory, by call and by the exception that leads to it.
pub fn mmio(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (_td, mut vcpus) = booted(o)?;
    let shared = DEVICE | SHARED_BIT;
    for v in &mut vcpus {
        for size in [1, 2, 4, 8] {
            let mut written = Vec::new();
            let args = [size as u64, 1, shared, VALUE];
            let regs = call_with(v, leaf::MMIO, args, |exit| match exit {
                Exit::Kvm(VcpuExit::MmioWrite(DEVICE, data)) => {
                    written = data.to_vec();
                    Ok(())
                }
                _ => Err(unexpected(&exit)),
            })?;
            equal("status", regs[0], 0)?;
            check(written == VALUE.to_le_bytes()[..size], || {
                format!("{written:x?} written")
            })?;
            let regs = call_with(
                v,
                leaf::MMIO,
                [size as u64, 0, shared, 0],
                |exit| match exit {
                    Exit::Kvm(VcpuExit::MmioRead(DEVICE, data)) => {
                        data.copy_from_slice(&VALUE.to_le_bytes()[..size]);
                        Ok(())
                    }
                    _ => Err(unexpected(&exit)),
                },
            )?;
            equal("status", regs[0], 0)?;
            equal("value read", regs[1], low(VALUE, size))?;
        }
        for args in [
            [3, 0, shared, 0],
            [8, 2, shared, 0],
            [8, 0, DEVICE, 0],
            [8, 1, (SHARED_BIT << 1) - 4, 0],
        ] {
            equal("status", call(v, leaf::MMIO, args)?[0], INVALID_OPERAND)?;
        }
        // The guest's handler skips the instruction.
        v.command(Command::Read, [SHARED_ALIAS + DEVICE + 8, 0, 0])?;
        let c = v.control();
        equal("exceptions", c.get(Field::Exceptions), 1)?;
        equal("reason", c.get(Field::Reason), 48)?;
        equal("address", c.get(Field::Address), shared + 8)?;
    }
    Ok(Outcome::Passed)
}

/// MSRs that KVM emulates, those it does not, and those that user space does.
pub fn msrs(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    const MTRR_DEFAULT: u64 = 0x2FF;
    let (td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        let base = call(v, leaf::RDMSR, [APIC_BASE, 0, 0, 0])?;
        equal("status", base[0], 0)?;
        let boot = u64::from(v.id() == 0) << 8;
        equal("APIC base", base[1], 0xFEE0_0C00 | boot)?;
        let set = call(v, leaf::WRMSR, [APIC_BASE, base[1], 0, 0])?;
        equal("writing the APIC base", set[0], INVALID_OPERAND)?;
        let set = call(v, leaf::WRMSR, [MTRR_DEFAULT, 0xC06, 0, 0])?;
        equal("status", set[0], 0)?;
        let got = call(v, leaf::RDMSR, [MTRR_DEFAULT, 0, 0, 0])?;
        equal("what was written", got[1], 0xC06)?;
        let got = call(v, leaf::RDMSR, [NO_MSR, 0, 0, 0])?;
        equal("an unknown MSR", got[0], INVALID_OPERAND)?;
        let set = call(v, leaf::WRMSR, [NO_MSR, 1, 0, 0])?;
        equal("an unknown MSR", set[0], INVALID_OPERAND)?;
    }
    // All reasons to ask user space.
    td.vm
        .enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_X86_USER_SPACE_MSR,
            args: [7, 0, 0, 0],
            ..Default::default()
        })
        .map_err(io::Error::other)?;
    for v in &mut vcpus {
        let got = call_with(v, leaf::RDMSR, [NO_MSR, 0, 0, 0], |exit| match exit {
            Exit::Kvm(VcpuExit::X86Rdmsr(m)) if u64::from(m.index) == NO_MSR => {
                *m.data = VALUE;
                Ok(())
            }
            _ => Err(unexpected(&exit)),
        })?;
        equal("status", got[0], 0)?;
        equal("user space's value", got[1], VALUE)?;
        let mut written = 0;
        let set = call_with(v, leaf::WRMSR, [NO_MSR, VALUE, 0, 0], |exit| match exit {
            Exit::Kvm(VcpuExit::X86Wrmsr(m)) if u64::from(m.index) == NO_MSR => {
                written = m.data;
                *m.error = 1;
                Ok(())
            }
            _ => Err(unexpected(&exit)),
        })?;
        equal("user space's refusal", set[0], INVALID_OPERAND)?;
        equal("what user space got", written, VALUE)?;
    }
    Ok(Outcome::Passed)
}

/// CPUID leaves that the TDX module leaves to the VMM.
pub fn cpuid(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        let known = v.fd.get_cpuid2(256).map_err(io::Error::other)?;
        for function in [1, 0x4000_0000, 0x8000_0001] {
            let want = known.as_slice().iter().find(|e| e.function == function);
            let want = want.ok_or_else(|| io::Error::other(format!("no leaf {function:#x}")))?;
            let got = call(v, leaf::CPUID, [function.into(), 0, 0, 0])?;
            equal("status", got[0], 0)?;
            equal("EAX", got[2], want.eax.into())?;
            equal("ECX", got[4], want.ecx.into())?;
            equal("EDX", got[5], want.edx.into())?;
        }
    }
    Ok(Outcome::Passed)
}

/// TDG.VP.VMCALL GetTdVmCallInfo, GetQuote, SetupEventNotifyInterrupt.
pub fn user_space_calls(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        let got = call(v, leaf::CALL_INFO, [0, 1, 2, 3])?;
        check(got[..5] == [0; 5], || format!("leaf 0: {got:x?}"))?;
        let got = call(v, leaf::CALL_INFO, [2, 0, 0, 0])?;
        equal("leaf 2", got[0], INVALID_OPERAND)?;
        let got = tdx_call(v, leaf::CALL_INFO, [1, 0, 0, 0], 1, |t| {
            t.data[1] = 2;
            t.data[4] = VALUE;
        })?;
        equal("status", got[0], 0)?;
        equal("R11", got[1], 2)?;
        equal("R14", got[4], VALUE)?;

        let buffer = [FAR_AWAY | SHARED_BIT, 0x2000, 0, 0];
        let got = tdx_call(v, leaf::GET_QUOTE, buffer, FAR_AWAY, |_| {})?;
        equal("a quote without an answer", got[0], UNSUPPORTED)?;
        let private = call(v, leaf::GET_QUOTE, [FAR_AWAY, 0x2000, 0, 0])?;
        equal("a private buffer", private[0], INVALID_OPERAND)?;

        let got = tdx_call(v, leaf::EVENT_NOTIFY, [0x40, 0, 0, 0], 0x40, |_| {})?;
        equal("an interrupt without an answer", got[0], UNSUPPORTED)?;
        for vector in [31, 256] {
            let got = call(v, leaf::EVENT_NOTIFY, [vector, 0, 0, 0])?;
            equal("a vector that is none", got[0], INVALID_OPERAND)?;
        }
    }
    Ok(Outcome::Passed)
}

/// A call that KVM hands to user space with `first` as its first operand.
fn tdx_call(
    v: &mut Vcpu,
    leaf: u64,
    args: [u64; 4],
    first: u64,
    answer: impl Fn(&mut TdxExit),
) -> io::Result<[u64; 6]> {
    let mut exits = 0;
    let regs = call_with(v, leaf, args, |exit| match exit {
        Exit::Tdx(t) if t.nr == leaf => {
            equal("operand", t.data[0], first)?;
            answer(t);
            exits += 1;
            Ok(())
        }
        _ => Err(unexpected(&exit)),
    })?;
    equal("exits to user space", exits, 1)?;
    Ok(regs)
}

/// TDG.VP.VMCALL MapGPA: operands, pieces, and user space that refuses.
pub fn map_gpa(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        let shared = FAR_AWAY | SHARED_BIT;
        for (at, size, want) in [
            (shared + 1, 4096, ALIGN_ERROR),
            (shared, 4095, ALIGN_ERROR),
            (shared, 0, INVALID_OPERAND),
            (shared, !0 << 12, INVALID_OPERAND),
            (SHARED_BIT - 4096, 8192, INVALID_OPERAND),
            (1 << 52, 4096, INVALID_OPERAND),
        ] {
            let got = call(v, leaf::MAP_GPA, [at, size, 0, 0])?;
            equal("status", got[0], want)?;
            equal("where it failed", got[1], at)?;
        }
        v.map_exits = 0;
        let size = 2 * CHUNK + 4096;
        for at in [shared, FAR_AWAY] {
            equal("status", call(v, leaf::MAP_GPA, [at, size, 0, 0])?[0], 0)?;
        }
        equal("pieces", v.map_exits, 6)?;
        for (errno, want) in [(libc::EAGAIN, RETRY), (libc::EINVAL, INVALID_OPERAND)] {
            v.map_refusal = errno as u64;
            let got = call(v, leaf::MAP_GPA, [shared, size, 0, 0])?;
            equal("status", got[0], want)?;
            equal("where it failed", got[1], shared)?;
        }
        equal("pieces", v.map_exits, 8)?;
    }
    Ok(Outcome::Passed)
}

/// Calls that nobody knows.
pub fn unknown(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    const NO_HYPERCALL: u64 = 77;
    const KVM_ENOSYS: u64 = 1000;
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        for leaf in [0x10005, 0x1FFFF, 29] {
            equal("status", call(v, leaf, [0; 4])?[0], UNSUPPORTED)?;
        }
        // R10 tells of a hypercall of KVM's own.
        let got = any_call(v, [NO_HYPERCALL, 1, 2, 3, 4, 5], |exit| {
            Err(unexpected(&exit))
        })?;
        equal("hypercall", got[0], KVM_ENOSYS.wrapping_neg())?;
    }
    Ok(Outcome::Passed)
}
