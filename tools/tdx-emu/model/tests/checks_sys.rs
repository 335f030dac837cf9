// SPDX-License-Identifier: GPL-2.0
//! The check tables of the SYS and PHYMEM leaves, the dispatcher, the fault plan.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::*;
use tdx_emu_model::fault::{Action, Rule, When};
use tdx_emu_model::regs::{leaf, op};
use tdx_emu_model::status::*;
use tdx_emu_model::{Config, Module, Outcome, PhysMem, Regs};

const T4K: u64 = POOL + 0x8000;

fn want(vm: &Vm, what: &str, lp: usize, regs: Regs, status: u64) -> Regs {
    let r = vm.call(lp, regs);
    assert_eq!(r.rax, status, "{what}: {:#x} not {status:#x}", r.rax);
    r
}

#[test]
fn dispatcher() {
    let vm = Vm::running();
    let bad = invalid(op::RAX);
    for rax in [
        69,
        42,
        0xFFFF,
        5 | 1 << 16,
        7 | 2 << 16,
        25 | 1 << 24,
        5 | 1 << 62,
    ] {
        let regs = Regs {
            rax,
            rcx: 3,
            rdx: 4,
            ..Regs::default()
        };
        let r = want(&vm, "rax", 0, regs, bad);
        assert_eq!((r.rcx, r.rdx), (3, 4));
    }
    let reclaim = Regs::call(27, 3, 4);
    let r = want(&vm, "MNG.KEY.RECLAIMID", 0, reclaim, SUCCESS);
    assert_eq!((r.rcx, r.rdx), (3, 4));
    let version1 = Regs {
        rax: 27 | 1 << 16,
        ..reclaim
    };
    want(&vm, "version 1", 0, version1, bad);
    for leaf_no in [23, 3, 30, 11, 26, 22] {
        want(
            &vm,
            "version 2",
            0,
            Regs {
                rax: leaf_no | 2 << 16,
                ..Regs::default()
            },
            bad,
        );
    }
    let mut r = Regs::default();
    assert_eq!(
        vm.m.seamcall(8, &mut r),
        Outcome::VmFailInvalid,
        "no such LP"
    );
}

#[test]
fn sys_leaves() {
    let vm = Vm::running();
    want(&vm, "INIT", 0, Regs::call(33, 0, 0), SYS_INIT_NOT_PENDING);
    want(&vm, "INIT", 0, Regs::call(33, 1, 0), invalid(op::RCX));
    want(&vm, "LP.INIT", 0, Regs::call(35, 0, 0), SYS_LP_INIT_DONE);
    want(
        &vm,
        "CONFIG",
        0,
        Regs::call(45, 0, 0),
        SYS_CONFIG_NOT_PENDING,
    );
    want(
        &vm,
        "KEY.CONFIG",
        0,
        Regs::call(31, 0, 0),
        SYS_KEY_CONFIG_NOT_PENDING,
    );
    want(
        &vm,
        "TDMR.INIT",
        0,
        Regs::call(36, TDMR, 0),
        TDMR_ALREADY_INITIALIZED,
    );
    want(
        &vm,
        "TDMR.INIT",
        0,
        Regs::call(36, TDMR + 4096, 0),
        invalid(op::RCX),
    );
    want(&vm, "TDMR.INIT", 0, Regs::call(36, 0, 0), invalid(op::RCX));
    let r = want(&vm, "RD", 0, Regs::call(34, 0, 0x0A00_0003_0000_0008), 0);
    assert_eq!((r.r8, r.rdx), (0x1F_0FBF, 0x1900_0003_0000_0000));
    let mut field = want(&vm, "RD", 0, Regs::call(34, 0, u64::MAX), 0x0C0B_0000_0000).rdx;
    let mut n = 0;
    while field != u64::MAX {
        field = vm.ok(0, Regs::call(34, 0, field)).rdx;
        n += 1;
    }
    assert_eq!(n, 29);
    want(
        &vm,
        "RD",
        0,
        Regs::call(34, 0, 0x7777),
        METADATA_FIELD_ID_INCORRECT,
    );
}

#[test]
fn sys_order() {
    let fresh = Vm::bare();
    let m = Module::new(fresh.m.machine.duplicate(), Config::default());
    let vm = Vm { m };
    for regs in [Regs::call(38, TDR, 0), Regs::call(5, 0, 0)] {
        want(&vm, "not ready", 0, regs, SYS_NOT_READY);
    }
    want(
        &vm,
        "LP.INIT",
        0,
        Regs::call(35, 0, 0),
        SYS_LP_INIT_NOT_PENDING,
    );
    want(&vm, "RD", 0, Regs::call(34, 0, 0), SYS_LP_INIT_NOT_DONE);
    vm.ok(0, Regs::call(33, 0, 0));
    for lp in 0..7 {
        vm.ok(lp, Regs::call(35, 0, 0));
    }
    let config = Regs::call3(45, 0x10_0000, 2, 32);
    want(&vm, "an LP is missing", 0, config, SYS_CONFIG_NOT_PENDING);
    vm.ok(7, Regs::call(35, 0, 0));
    want(
        &vm,
        "misaligned",
        0,
        Regs {
            rcx: 0x10_0008,
            ..config
        },
        invalid(op::RCX),
    );
    want(&vm, "count", 0, Regs { rdx: 0, ..config }, invalid(op::RDX));
    want(
        &vm,
        "count",
        0,
        Regs { rdx: 65, ..config },
        invalid(op::RDX),
    );
    want(
        &vm,
        "shared KeyID",
        0,
        Regs { r8: 31, ..config },
        invalid(R8),
    );
    let info = 0x10_1000;
    let tamper = |off: u64, value: u64, status: u64| {
        let old = vm.m.machine.read(info + off);
        vm.m.machine.write(info + off, value);
        let r = vm.call(0, config);
        assert_eq!(class(r.rax), status, "offset {off}: {:#x}", r.rax);
        vm.m.machine.write(info + off, old);
    };
    tamper(0, TDMR + 4096, INVALID_TDMR);
    tamper(8, 0, INVALID_TDMR);
    tamper(0, UNINIT + GIB, NON_ORDERED_TDMR);
    tamper(0, 1 << 41, TDMR_OUTSIDE_CMRS);
    tamper(56, 0x1000, INVALID_PAMT);
    tamper(48, 0x2000_0001, INVALID_PAMT);
    tamper(48, TDMR, PAMT_OVERLAP);
    tamper(48, 0x2000_0000, PAMT_OVERLAP);
    tamper(48, 1 << 41, PAMT_OUTSIDE_CMRS);
    tamper(72, 0x100, INVALID_RESERVED_IN_TDMR);
    tamper(88, 0x1000, NON_ORDERED_RESERVED_IN_TDMR);
    vm.ok(0, config);
    vm.m.machine.pconfig.store(2, SeqCst);
    want(
        &vm,
        "entropy",
        0,
        Regs::call(31, 0, 0),
        KEY_GENERATION_FAILED,
    );
    vm.m.machine.pconfig.store(5, SeqCst);
    want(&vm, "busy", 0, Regs::call(31, 0, 0), busy(op::KET));
    vm.m.machine.pconfig.store(0, SeqCst);
    vm.ok(0, Regs::call(31, 0, 0));
}

/// The key of a package is configured once, and by a processor of that package.
#[test]
fn two_packages() {
    let fresh = Vm::bare();
    let config = Config {
        pkgs: 2,
        ..Config::default()
    };
    let m = Module::new(fresh.m.machine.duplicate(), config);
    let vm = Vm { m };
    vm.ok(0, Regs::call(33, 0, 0));
    for lp in 0..8 {
        vm.ok(lp, Regs::call(35, 0, 0));
    }
    vm.ok(0, Regs::call3(45, 0x10_0000, 2, 32));
    let other = (1..8).find(|lp| vm.m.config.pkg(*lp) != 0).unwrap();
    let twice = |regs: Regs| {
        vm.ok(0, regs);
        want(&vm, "twice", 0, regs, KEY_CONFIGURED);
        vm.ok(other, regs);
    };
    twice(Regs::call(31, 0, 0));
    while vm.ok(0, Regs::call(36, TDMR, 0)).rdx < TDMR + GIB {}
    vm.ok(0, Regs::call(9, TDR, HKID));
    twice(Regs::call(8, TDR, 0));
    vm.ok(0, Regs::call(1, TDCX, TDR));
}

#[test]
fn wbinvd_operand() {
    let vm = Vm::running();
    let kind = with_op(PAGE_METADATA_INCORRECT, op::RCX);
    let range = with_op(OPERAND_ADDR_RANGE_ERROR, op::RCX);
    for (what, pa, status) in [
        ("misaligned", T4K + 8, invalid(op::RCX)),
        ("above MAXPA", T4K | 1 << 52, invalid(op::RCX)),
        ("outside", OUTSIDE, range),
        ("not initialized", UNINIT, range),
        ("reserved", RESERVED, kind),
        ("TD page", POOL, kind),
        ("TD page, its KeyID", POOL | HKID << 46, kind),
        ("TDR", TDR, kind),
    ] {
        want(&vm, what, 0, Regs::call(41, pa, 0), status);
    }
    assert_eq!(vm.m.machine.flushed.load(SeqCst), 0);
    vm.ok(0, Regs::call(41, T4K, 0));
    assert_eq!(vm.m.machine.flushed.load(SeqCst), 1);
}

#[test]
fn phymem_leaves() {
    let vm = Vm::running();
    for (pa, ty, level) in [
        (TDR, 4, 0),
        (TDCX, 5, 0),
        (VCPU, 6, 0),
        (SEPT, 8, 0),
        (POOL, 3, 0),
    ] {
        let r = vm.ok(0, Regs::call(24, pa, 0));
        let owner = if ty == 4 { 0 } else { TDR };
        assert_eq!((r.rcx, r.rdx, r.r8), (ty, owner, level));
        want(
            &vm,
            "in use",
            0,
            Regs::call(28, pa, 0),
            LIFECYCLE_STATE_INCORRECT,
        );
        want(
            &vm,
            "in use",
            0,
            Regs::call(41, pa, 0),
            with_op(PAGE_METADATA_INCORRECT, op::RCX),
        );
    }
    for leaf_no in [24, 28] {
        for pa in [POOL + 8, POOL | 1 << 46, POOL | 1 << 52] {
            want(
                &vm,
                "operand",
                0,
                Regs::call(leaf_no, pa, 0),
                invalid(op::RCX),
            );
        }
        let range = with_op(OPERAND_ADDR_RANGE_ERROR, op::RCX);
        want(&vm, "outside", 0, Regs::call(leaf_no, OUTSIDE, 0), range);
    }
    let kind = with_op(PAGE_METADATA_INCORRECT, op::RCX);
    want(&vm, "free", 0, Regs::call(28, T4K, 0), kind);
    want(&vm, "reserved", 0, Regs::call(28, RESERVED, 0), kind);
    assert_eq!(vm.ok(0, Regs::call(24, RESERVED, 0)).rcx, 1);
    vm.ok(0, Regs::call(41, T4K | 33 << 46, 0));
    want(&vm, "command", 0, Regs::call(40, 2, 0), invalid(op::RCX));
    want(
        &vm,
        "nothing to do",
        0,
        Regs::call(40, 0, 0),
        NO_HKID_READY_TO_WBCACHE,
    );
    want(
        &vm,
        "nothing to resume",
        0,
        Regs::call(40, 1, 0),
        WBCACHE_RESUME_ERROR,
    );
}

#[test]
fn fault_plan() {
    let vm = Vm::running();
    let rule = |when, action| Rule {
        leaf: leaf::MEM_TRACK,
        when,
        action,
    };
    let s = busy(op::OP_STATE);
    vm.m.faults
        .add(rule(When::Nth(2), Action::Status(s)))
        .unwrap();
    vm.track();
    let r = want(&vm, "injected", 0, Regs::call(38, TDR, 0), s);
    assert_eq!(r.rcx, TDR);
    vm.track();
    assert_eq!((vm.m.td_view(TDR).epoch, vm.m.faults.fired()), (3, 1));
    vm.m.faults.clear();
    let reloc = Rule {
        leaf: leaf::MEM_PAGE_RELOCATE,
        when: When::Every(1),
        action: Action::Status(busy(R8)),
    };
    vm.m.faults.add(reloc).unwrap();
    let r = vm.relocate(0x1000, T4K);
    assert_eq!((r.rax, r.rcx, r.rdx), (busy(R8), 0, 0));
    vm.m.faults.clear();
    // A callback runs, and then the call is carried out.
    vm.m.faults
        .add(rule(When::Nth(1), Action::Callback(9)))
        .unwrap();
    let epoch = vm.m.td_view(TDR).epoch;
    vm.track();
    assert_eq!(vm.m.machine.callback.load(SeqCst), 9);
    assert_eq!(vm.m.td_view(TDR).epoch, epoch + 1);
}
