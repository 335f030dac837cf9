// SPDX-License-Identifier: GPL-2.0
//! What a TD can read and write of itself and of the module, and what has measured it.

mod common;

use common::*;
use sha2::{Digest, Sha384};
use tdx_emu_model::regs::{leaf, op, tdcall};
use tdx_emu_model::status::*;
use tdx_emu_model::{GuestOutcome, Regs};

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|b| u64::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

const MRTD: u64 = 0x1310_0003_0000_0000;
const RTMR: u64 = 0x1310_0003_0000_0040;

#[test]
fn mrtd_is_the_digest_of_all_records() {
    let vm = Vm::building();
    for chunk in [0, 0x1100] {
        vm.ok(0, Regs::call(leaf::MR_EXTEND, chunk, TDR));
    }
    vm.ok(0, Regs::call(leaf::MR_FINALIZE, TDR, 0));
    vm.enter(0);
    let record = |what: &[u8], gpa: u64| {
        let mut r = [0; 128];
        r[..what.len()].copy_from_slice(what);
        r[16..24].copy_from_slice(&gpa.to_le_bytes());
        r
    };
    let mut h = Sha384::new();
    for gpa in 0..4 {
        h.update(record(b"MEM.PAGE.ADD", gpa << 12));
    }
    for (page, offset) in [(0u64, 0u64), (1, 0x100)] {
        h.update(record(b"MR.EXTEND", page << 12 | offset));
        for w in (offset..offset + 256).step_by(8) {
            h.update((page << 32 | w).to_le_bytes());
        }
    }
    assert_eq!(vm.td_field(MRTD, 6), words(&h.finalize()));
}

#[test]
fn runtime_registers_and_the_report() {
    // MRCONFIGID.
    let vm = Vm::entered(&[(80, 0xC0FF_EE00)]);
    let extend = |gpa, index| {
        vm.tdcall(Regs::call(tdcall::MR_RTMR_EXTEND, gpa, index))
            .rax
    };
    assert_eq!(extend(0x2008, 0), invalid(op::RCX));
    assert_eq!(extend(1 << 47, 0), invalid(op::RCX));
    assert_eq!(extend(0x2000, 4), invalid(op::RDX));
    let mut want = [[0u8; 48]; 4];
    for (gpa, index) in [(0x2000u64, 0usize), (0x2040, 3), (0x2080, 3)] {
        assert_eq!(extend(gpa, index as u64), 0);
        let mut h = Sha384::new();
        h.update(want[index]);
        for w in (gpa..gpa + 48).step_by(8) {
            h.update((2u64 << 32 | (w - 0x2000)).to_le_bytes());
        }
        want[index] = h.finalize().into();
    }
    let all: Vec<u8> = want.concat();
    assert_eq!(vm.td_field(RTMR, 24), words(&all));

    assert_eq!(
        vm.tdcall(Regs::call(tdcall::MR_REPORT, 0x1400, 0x2040)).rax,
        0
    );
    let word = |i: u64| match vm.read(0, 0x1400 + 8 * i) {
        GuestOutcome::InGuest(w) => w,
        o => panic!("{o:?}"),
    };
    let report: Vec<u64> = (0..128).map(word).collect();
    assert_eq!(report[64..66], [1, 3]);
    assert_eq!(report[66..72], vm.td_field(MRTD, 6));
    assert_eq!(report[72], 0xC0FF_EE00);
    assert_eq!(report[90..114], words(&all));
    let info: Vec<u8> = report[64..].iter().flat_map(|w| w.to_le_bytes()).collect();
    assert_eq!(report[10..16], words(&Sha384::digest(&info)));
}

#[test]
fn fields_of_the_guest() {
    let vm = Vm::entered(&[(32, 1 << 1)]);
    let read = |version: u64, rdx| {
        vm.tdcall(Regs {
            rax: 7 | version << 16,
            rdx,
            ..Regs::default()
        })
    };
    let write = |field, data, mask| {
        let r = Regs {
            r9: mask,
            ..Regs::call3(tdcall::VM_WR, 0, field, data)
        };
        vm.tdcall(r)
    };
    // One after the other, in the order of their ids.
    let first = read(1, u64::MAX);
    assert_eq!(first.rax, METADATA_FIRST_FIELD_ID_IN_CONTEXT);
    let (mut field, mut n) = (first.rdx, 0);
    while field != u64::MAX {
        let r = read(1, field);
        assert_eq!(r.rax, 0, "{field:#x}");
        field = r.rdx;
        n += 1;
    }
    assert_eq!(n, 4 + 2 + 5 + 4 + 24 + 24);
    for (regs, want) in [
        (
            Regs {
                rax: 7 | 2 << 16,
                ..Regs::default()
            },
            invalid(op::RAX),
        ),
        (
            Regs {
                rax: 8 | 1 << 16,
                ..Regs::default()
            },
            invalid(op::RAX),
        ),
        (
            Regs {
                rax: 7,
                rcx: 1,
                ..Regs::default()
            },
            invalid(op::RCX),
        ),
        // The host's, and nobody's.
        (
            Regs {
                rax: 7,
                rdx: 0x8110_0001_0000_0001,
                ..Regs::default()
            },
            METADATA_FIELD_NOT_READABLE,
        ),
        (
            Regs {
                rax: 7,
                rdx: 0x9110_0003_0000_00FF,
                ..Regs::default()
            },
            METADATA_FIELD_ID_INCORRECT,
        ),
    ] {
        assert_eq!(vm.tdcall(regs).rax, want, "{regs:x?}");
    }
    // Linux's ids, whose element size is 0.
    const NOTIFY_ENABLES: u64 = 0x9100_0000_0000_0010;
    const TD_CTLS: u64 = 0x1110_0003_0000_0017;
    assert_eq!(write(NOTIFY_ENABLES, 1, u64::MAX).rax, 0);
    assert_eq!(write(NOTIFY_ENABLES, 0, u64::MAX).r8, 1);
    // The TD's host lets it choose about exceptions; there is no REDUCE_VE here.
    assert_eq!(write(TD_CTLS, 1, 1).rax, 0);
    assert_eq!(read(0, TD_CTLS).r8, 1);
    assert_eq!(
        write(TD_CTLS, 1 << 3, 1 << 3).rax,
        METADATA_FIELD_NOT_WRITABLE
    );
    assert_eq!(
        write(TD_CTLS, 1 << 1, 1 << 1).rax,
        METADATA_FIELD_VALUE_NOT_VALID
    );
    assert_eq!(write(MRTD, 1, 1).rax, METADATA_FIELD_NOT_WRITABLE);
    let fixed = Vm::entered(&[]);
    let r = Regs {
        r9: 1,
        ..Regs::call3(tdcall::VM_WR, 0, TD_CTLS, 1)
    };
    assert_eq!(fixed.tdcall(r).rax, METADATA_FIELD_VALUE_NOT_VALID);
}

#[test]
fn fields_of_the_module() {
    let vm = Vm::entered(&[]);
    let read = |rdx| {
        vm.tdcall(Regs {
            rax: 11,
            rdx,
            ..Regs::default()
        })
    };
    let (mut field, mut seen) = (read(u64::MAX).rdx, vec![]);
    while field != u64::MAX {
        let r = read(field);
        assert_eq!(r.rax, 0, "{field:#x}");
        seen.push(r.r8);
        field = r.rdx;
    }
    assert_eq!(seen[..3], [0x8086, 5, 1]);
    assert_eq!(read(0x9900_0001_0000_0004).rax, METADATA_FIELD_NOT_READABLE);
    assert_eq!(read(0x0A00_0003_0000_00FF).rax, METADATA_FIELD_ID_INCORRECT);
}
