// SPDX-License-Identifier: GPL-2.0
//! What a TD asks the TDX module: about itself, what has measured it, and the module. Leaves,
//! field ids and statuses: Intel TDX module 1.5 ABI specification.

use std::io;

use sha2::{Digest, Sha384};

use super::{booted, check, equal, Counters, Options, Outcome};
use crate::guest::{Command, Field, SHARED_BIT};
use crate::tdx;
use crate::vm::{Td, Vcpu};

/// Leaves of TDCALL.
pub mod leaf {
    #![allow(missing_docs)]
    pub const VP_INFO: u64 = 1;
    pub const RTMR_EXTEND: u64 = 2;
    pub const VEINFO_GET: u64 = 3;
    pub const MR_REPORT: u64 = 4;
    pub const VM_RD: u64 = 7;
    pub const VM_WR: u64 = 8;
    pub const SYS_RD: u64 = 11;
}

/// No such leaf.
const NO_LEAF: u64 = 0x7F;

// Operands, as a status names them.
const RAX: u64 = 0;
const RCX: u64 = 1;
const RDX: u64 = 2;
const OPERAND_INVALID: u64 = 0xC000_0100 << 32;
const NO_VALID_VE_INFO: u64 = 0xC000_0704 << 32;
const FIELD_ID_INCORRECT: u64 = 0xC000_0C00 << 32;
const FIELD_NOT_WRITABLE: u64 = 0xC000_0C01 << 32;
const FIELD_NOT_READABLE: u64 = 0xC000_0C02 << 32;
const FIRST_FIELD_ID: u64 = 0x0000_0C0B << 32;
/// Where the fields of a context start and end.
const ENDS: u64 = !0;

const NUM_VCPUS: u64 = 0x9010_0002_0000_0001;
const ATTRIBUTES: u64 = 0x1110_0003_0000_0000;
const XFAM: u64 = 0x1110_0003_0000_0001;
const NOTIFY_ENABLES: u64 = 0x9110_0003_0000_0010;
const MRTD: u64 = 0x1310_0003_0000_0000;
const RTMR: u64 = 0x1310_0003_0000_0040;
/// HKID, which is the host's business.
const HKID: u64 = 0x8110_0001_0000_0001;
const NO_FIELD: u64 = 0x9110_0003_0000_00FF;
const VENDOR_ID: u64 = 0x0800_0002_0000_0000;
const MINOR_VERSION: u64 = 0x0800_0001_0000_0003;
const MAJOR_VERSION: u64 = 0x0800_0001_0000_0004;
const INTEL: u64 = 0x8086;

/// Bytes of a TDREPORT, and where the data of the caller, the proof and TDINFO's registers are.
const REPORT: u64 = 1024;
const REPORT_DATA: u64 = 128;
const REPORT_MAC: u64 = 224;
const REPORT_RTMR: u64 = 512 + 208;
const DIGEST: u64 = 48;
const RTMRS: u64 = 4;

/// What is in the registers after a call.
pub struct Answer {
    status: u64,
    /// RCX and so on.
    pub rcx: u64,
    pub rdx: u64,
    pub r8: u64,
    pub r9: u64,
}

/// A TDCALL with RCX, RDX, R8 and R9.
fn call(v: &mut Vcpu, leaf: u64, [rcx, rdx, r8, r9]: [u64; 4]) -> io::Result<Answer> {
    let c = v.control();
    c.set(Field::R12, r8);
    c.set(Field::R13, r9);
    let status = v.command(Command::CallModule, [leaf, rcx, rdx])?;
    let c = v.control();
    Ok(Answer {
        status,
        rcx: c.get(Field::Back10),
        rdx: c.get(Field::Back11),
        r8: c.get(Field::Back12),
        r9: c.get(Field::Back13),
    })
}

/// TDG.VP.INFO.
pub fn info(v: &mut Vcpu) -> io::Result<Answer> {
    let answer = call(v, leaf::VP_INFO, [0; 4])?;
    equal("TDG.VP.INFO", answer.status, 0)?;
    Ok(answer)
}

/// A page of private memory that the TD has accepted.
fn page(td: &Td, v: &mut Vcpu) -> io::Result<u64> {
    let at = td.test_memory().start;
    equal("accept", v.command(Command::Accept, [at, at + 4096, 0])?, 0)?;
    Ok(at)
}

fn read(v: &mut Vcpu, at: u64) -> io::Result<u64> {
    v.command(Command::Read, [at, 0, 0])
}

/// TDG.MR.REPORT, with data from a page that is there, and from one that is not.
pub fn report(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    let v = &mut vcpus[0];
    let at = page(&td, v)?;
    v.command(Command::Write, [at, 0x1234, 0])?;
    let made = call(v, leaf::MR_REPORT, [at + REPORT, at, 0, 0])?;
    equal("TDG.MR.REPORT", made.status, 0)?;
    equal("report data", read(v, at + REPORT + REPORT_DATA)?, 0x1234)?;
    // Data in a page that is not accepted: the handler is told of that one.
    let data = at + 2 * 4096;
    let made = call(v, leaf::MR_REPORT, [at + 2 * REPORT, data, 0, 0])?;
    equal("TDG.MR.REPORT", made.status, 0)?;
    let c = td.control(0);
    equal("exceptions", c.get(Field::Exceptions), 1)?;
    equal("address", c.get(Field::Address), data)?;
    let mac = read(v, at + REPORT + REPORT_MAC)?;
    let text = u64::from_le_bytes(*b"EMULATED");
    equal("what stands where the proof would be", mac, text)?;
    Ok(Outcome::Passed)
}

/// TDG.MR.RTMR.EXTEND: a register is the digest of all that it was extended with, in the
/// report and as fields, whichever vCPU has done it.
pub fn runtime_registers(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    let at = page(&td, &mut vcpus[0])?;
    let mut want = [[0; DIGEST as usize]; RTMRS as usize];
    for (i, n) in (0..).zip([0, 3, 1, 3, 3, 2]) {
        let v = &mut vcpus[i % o.vcpus as usize];
        let mut h = Sha384::new_with_prefix(want[n]);
        for word in 0..DIGEST / 8 {
            let value = (i as u64) << 32 | word;
            v.command(Command::Write, [at + 8 * word, value, 0])?;
            h.update(value.to_le_bytes());
        }
        want[n] = h.finalize().into();
        let made = call(v, leaf::RTMR_EXTEND, [at, n as u64, 0, 0])?;
        equal("TDG.MR.RTMR.EXTEND", made.status, 0)?;
    }
    let v = &mut vcpus[0];
    let made = call(v, leaf::MR_REPORT, [at + REPORT, at, 0, 0])?;
    equal("TDG.MR.REPORT", made.status, 0)?;
    for (i, word) in (0..).zip(want.concat().chunks_exact(8)) {
        let word = word
            .iter()
            .rev()
            .fold(0, |all, byte| all << 8 | u64::from(*byte));
        let what = |from| format!("word {i} of the registers, {from}");
        let reported = read(v, at + REPORT + REPORT_RTMR + 8 * i)?;
        equal(&what("in the report"), reported, word)?;
        let field = call(v, leaf::VM_RD, [0, RTMR + i, 0, 0])?;
        equal("TDG.VM.RD", field.status, 0)?;
        equal(&what("as a field"), field.r8, word)?;
    }
    for (gpa, n, operand) in [
        (at, RTMRS, RDX),
        (at + 8, 0, RCX),
        (at | SHARED_BIT, 0, RCX),
    ] {
        let refused = call(v, leaf::RTMR_EXTEND, [gpa, n, 0, 0])?;
        equal("status", refused.status, OPERAND_INVALID | operand)?;
    }
    Ok(Outcome::Passed)
}

/// TDG.VM.RD, TDG.VM.WR and TDG.SYS.RD.
pub fn fields(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        for (leaf, field, want) in [
            (leaf::VM_RD, NUM_VCPUS, o.vcpus),
            (leaf::VM_RD, ATTRIBUTES, 0),
            (leaf::VM_RD, XFAM, 3),
            (leaf::VM_RD, NOTIFY_ENABLES, 0),
            (leaf::SYS_RD, VENDOR_ID, INTEL),
            (leaf::SYS_RD, MAJOR_VERSION, 1),
            (leaf::SYS_RD, MINOR_VERSION, 5),
        ] {
            let got = call(v, leaf, [0, field, 0, 0])?;
            equal(&format!("status of {field:#x}"), got.status, 0)?;
            equal(&format!("{field:#x}"), got.r8, want)?;
        }
        // Data and mask; the answer is what was there.
        for (data, before) in [(1, 0), (0, 1)] {
            let got = call(v, leaf::VM_WR, [0, NOTIFY_ENABLES, data, 1])?;
            equal("TDG.VM.WR", got.status, 0)?;
            equal("what was there", got.r8, before)?;
            let now = call(v, leaf::VM_RD, [0, NOTIFY_ENABLES, 0, 0])?;
            equal("what is there", now.r8, data)?;
        }
        for (leaf, field, want) in [
            (leaf::VM_RD, HKID, FIELD_NOT_READABLE),
            (leaf::VM_RD, NO_FIELD, FIELD_ID_INCORRECT),
            (leaf::VM_WR, MRTD, FIELD_NOT_WRITABLE),
            (leaf::VM_WR, RTMR, FIELD_NOT_WRITABLE),
            (leaf::SYS_RD, NO_FIELD, FIELD_ID_INCORRECT),
        ] {
            let got = call(v, leaf, [0, field, 1, 1])?;
            equal(&format!("status of {field:#x}"), got.status, want)?;
        }
        // One field after the other.
        let first = call(v, leaf::SYS_RD, [0, ENDS, 0, 0])?;
        equal("status", first.status, FIRST_FIELD_ID)?;
        let (mut field, mut number) = (first.rdx, 0);
        while field != ENDS {
            let got = call(v, leaf::SYS_RD, [0, field, 0, 0])?;
            equal(&format!("status of {field:#x}"), got.status, 0)?;
            check(number < 100, || "the list has no end".into())?;
            (field, number) = (got.rdx, number + 1);
        }
        check(number > 3, || format!("{number} fields of the module"))?;
    }
    Ok(Outcome::Passed)
}

/// Leaves and operands that are wrong; and there is no exception to tell of.
pub fn refused(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    let at = page(&td, &mut vcpus[0])?;
    for v in &mut vcpus {
        for (leaf, [rcx, rdx], want) in [
            (NO_LEAF, [0; 2], OPERAND_INVALID | RAX),
            // A version that the leaf has not.
            (leaf::VP_INFO | 1 << 16, [0; 2], OPERAND_INVALID | RAX),
            (leaf::VEINFO_GET, [0; 2], NO_VALID_VE_INFO),
            (leaf::MR_REPORT, [at + 8, at], OPERAND_INVALID | RCX),
            (leaf::MR_REPORT, [at, at + 8], OPERAND_INVALID | RDX),
            (
                leaf::MR_REPORT,
                [at | SHARED_BIT, at],
                OPERAND_INVALID | RCX,
            ),
        ] {
            let got = call(v, leaf, [rcx, rdx, 0, 0])?;
            equal(&format!("status of leaf {leaf:#x}"), got.status, want)?;
        }
        let seen = v.control().get(Field::Exceptions);
        equal("virtualization exceptions", seen, 0)?;
    }
    Ok(Outcome::Passed)
}

/// What CPUID answers in the TD is what KVM_TDX_GET_CPUID tells the VMM, but for what a
/// processor says of itself and of its state.
pub fn cpuid_as_told(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    // EAX to EDX that are not compared: the APIC ID and whether CR4.OSXSAVE is set; whether
    // CR4.PKE is; the size of what XCR0 and XSS have; SYSCALL, which is there in 64-bit mode;
    // the width of a guest's addresses, which KVM adds.
    const CHANGING: [(u32, u32, [u32; 4]); 6] = [
        (1, 0, [0, 0xFF00_0000, 1 << 27, 0]),
        (7, 0, [0, 0, 1 << 4, 0]),
        (0xD, 0, [0, !0, 0, 0]),
        (0xD, 1, [0, !0, 0, 0]),
        (0x8000_0001, 0, [0, 0, 0, 1 << 11]),
        (0x8000_0008, 0, [0xFF_0000, 0, 0, 0]),
    ];
    let mut td = Td::not_finalized(o.provider, o.size, o.vcpus)?;
    let mut vcpus = td.take_vcpus();
    // KVM tells it for as long as the VMM can still do something about it.
    let told = vcpus
        .iter()
        .map(|v| tdx::get_cpuid(&v.fd, 256))
        .collect::<io::Result<Vec<_>>>()?;
    td.finalize()?;
    let mut compared = 0;
    for (v, told) in vcpus.iter_mut().zip(told) {
        v.run()?;
        let mut topology = 0;
        for e in &told.entries[..told.nent as usize] {
            let at = [e.function.into(), e.index.into(), 0];
            v.command(Command::Cpuid, at)?;
            let c = v.control();
            let at = format!("CPUID {:#x}.{}", e.function, e.index);
            let exceptions = format!("virtualization exceptions of {at}");
            // The topology, which the TD has not turned on (TD_CTLS.ENUM_TOPOLOGY).
            topology += u64::from(e.function == 0x1F);
            equal(&exceptions, c.get(Field::Exceptions), topology)?;
            if e.function == 0x1F {
                continue;
            }
            let changing = CHANGING
                .iter()
                .find(|(leaf, sub, _)| (*leaf, *sub) == (e.function, e.index))
                .map_or([0; 4], |(_, _, bits)| *bits);
            for ((field, want), skip) in [
                (Field::Back10, e.eax),
                (Field::Back11, e.ebx),
                (Field::Back12, e.ecx),
                (Field::Back13, e.edx),
            ]
            .into_iter()
            .zip(changing)
            {
                let got = c.get(field);
                equal(
                    &format!("{field:?} of {at}"),
                    got & u64::from(!skip),
                    u64::from(want & !skip),
                )?;
            }
            compared += 1;
        }
    }
    check(compared > 20, || format!("{compared} leaves compared"))?;
    counters.push(("cpuid_leaves_compared", compared));
    Ok(Outcome::Passed)
}
