// SPDX-License-Identifier: GPL-2.0
//! The check tables of the other leaves, and what happens inside the guest.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::*;
use tdx_emu_model::fault::{Action, Rule, When};
use tdx_emu_model::locks::{Mode, Side};
use tdx_emu_model::pseudo::LockObj;
use tdx_emu_model::regs::{leaf, op};
use tdx_emu_model::sept::{self, State};
use tdx_emu_model::status::*;
use tdx_emu_model::{Config, GuestEvent, GuestOutcome, Module, Outcome, PhysMem, Regs};

const T4K: u64 = POOL + 0x8000;
const TD2: u64 = TDMR + 0x10_0000;

fn want(vm: &Vm, what: &str, lp: usize, regs: Regs, status: u64) -> Regs {
    let r = vm.call(lp, regs);
    assert_eq!(r.rax, status, "{what}: {:#x} not {status:#x}", r.rax);
    r
}

fn page_rows(vm: &Vm, make: impl Fn(u64) -> Regs, operand: u32) {
    let kind = with_op(PAGE_METADATA_INCORRECT, operand);
    let range = with_op(OPERAND_ADDR_RANGE_ERROR, operand);
    for (what, pa, status) in [
        ("misaligned", T4K + 8, invalid(operand)),
        ("KeyID bits", T4K | 33 << 46, invalid(operand)),
        ("outside", OUTSIDE, range),
        ("not initialized", UNINIT, range),
        ("reserved", RESERVED, kind),
        ("TD page", POOL, kind),
    ] {
        want(vm, what, 0, make(pa), status);
    }
}

#[test]
fn dispatcher() {
    let vm = Vm::running();
    let bad = invalid(op::RAX);
    for rax in [
        69,
        27,
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

#[test]
fn mng_leaves() {
    let vm = Vm::building();
    for hkid in [0, 31, 64, 1 << 16 | 40] {
        want(&vm, "KeyID", 0, Regs::call(9, TD2, hkid), invalid(op::RDX));
    }
    page_rows(&vm, |pa| Regs::call(9, pa, 40), op::RCX);
    want(
        &vm,
        "KeyID in use",
        0,
        Regs::call(9, TD2, HKID),
        HKID_NOT_FREE,
    );
    want(
        &vm,
        "global KeyID",
        0,
        Regs::call(9, TD2, 32),
        HKID_NOT_FREE,
    );
    vm.m.lock(LockObj::Kot, Mode::Shared, Side::Host).unwrap();
    want(&vm, "KOT", 0, Regs::call(9, TD2, 40), busy(op::KOT));
    vm.m.unlock(LockObj::Kot, Mode::Shared);
    vm.ok(0, Regs::call(9, TD2, 40));
    want(
        &vm,
        "ADDCX",
        0,
        Regs::call(1, T4K, TD2),
        TD_KEYS_NOT_CONFIGURED,
    );
    vm.m.machine.pconfig.store(5, SeqCst);
    want(&vm, "KET", 0, Regs::call(8, TD2, 0), busy(op::KET));
    vm.m.machine.pconfig.store(2, SeqCst);
    want(
        &vm,
        "entropy",
        0,
        Regs::call(8, TD2, 0),
        KEY_GENERATION_FAILED,
    );
    vm.m.machine.pconfig.store(0, SeqCst);
    vm.ok(0, Regs::call(8, TD2, 0));
    want(
        &vm,
        "twice",
        0,
        Regs::call(8, TD2, 0),
        LIFECYCLE_STATE_INCORRECT,
    );
    page_rows(&vm, |pa| Regs::call(1, pa, TD2), op::RCX);
    want(
        &vm,
        "INIT",
        0,
        Regs::call(21, TD2, PARAMS),
        TDCS_NOT_ALLOCATED,
    );
    for i in 1..=9 {
        vm.ok(0, Regs::call(1, TD2 + 0x1000 * i, TD2));
    }
    want(
        &vm,
        "10 pages",
        0,
        Regs::call(1, T4K, TD2),
        TDCX_NUM_INCORRECT,
    );
    want(
        &vm,
        "after INIT",
        0,
        Regs::call(1, T4K, TDR),
        OP_STATE_INCORRECT,
    );
    want(
        &vm,
        "INIT twice",
        0,
        Regs::call(21, TDR, PARAMS),
        OP_STATE_INCORRECT,
    );
}

#[test]
fn td_params() {
    let vm = Vm::bare();
    vm.create(TDR, HKID);
    for i in 0..6 {
        vm.ok(0, Regs::call(1, TDCX + 0x1000 * i, TDR));
    }
    want(
        &vm,
        "alignment",
        0,
        Regs::call(21, TDR, PARAMS + 512),
        invalid(op::RDX),
    );
    want(
        &vm,
        "private KeyID",
        0,
        Regs::call(21, TDR, PARAMS | 33 << 46),
        invalid(op::RDX),
    );
    for (what, word, value, status) in [
        ("attributes", 0, 2, invalid(op::ATTRIBUTES)),
        ("migratable debug", 0, 1 | 1 << 29, invalid(op::ATTRIBUTES)),
        ("xfam without SSE", 1, 1, invalid(op::XFAM)),
        ("xfam", 1, 3 | 8, invalid(op::XFAM)),
        ("no vCPUs", 2, 0, invalid(op::MAX_VCPUS)),
        ("L2 VMs", 2, 8 | 4 << 16, invalid(op::NUM_L2_VMS)),
        ("TDCX for L2", 2, 8 | 1 << 16, TDCS_NOT_ALLOCATED),
        ("reserved", 2, 8 | 1 << 32, invalid(op::RDX)),
        ("EPT levels", 3, 0x16, invalid(op::EPTP_CONTROLS)),
        ("EPT type", 3, 0x18, invalid(op::EPTP_CONTROLS)),
        ("flags", 4, 8, invalid(op::EXEC_CONTROLS)),
        ("GPAW without 5 levels", 4, 1, invalid(op::EPTP_CONTROLS)),
        ("TSC", 5, 3, invalid(op::TSC_FREQUENCY)),
        ("TSC", 5, 401, invalid(op::TSC_FREQUENCY)),
        ("reserved", 9, 1, invalid(op::RDX)),
        ("reserved", 29, 1, invalid(op::RDX)),
        ("arch caps", 28, 1, invalid(op::ARCH_CAPABILITIES)),
        ("reserved", 127, 1, invalid(op::RDX)),
    ] {
        vm.params(1);
        vm.m.machine.write(PARAMS + 8 * word, value);
        let r = want(&vm, what, 0, Regs::call(21, TDR, PARAMS), status);
        assert_eq!(r.rcx, 0);
    }
    vm.params(1);
    vm.ok(0, Regs::call(21, TDR, PARAMS));
    want(&vm, "FINALIZE", 0, Regs::call(17, TDR, 0), NO_VCPUS);
}

#[test]
fn vp_leaves() {
    let vm = Vm::building();
    let new = VCPU + 0x2_0000;
    page_rows(&vm, |pa| Regs::call(10, pa, TDR), op::RCX);
    vm.ok(0, Regs::call(10, new, TDR));
    page_rows(&vm, |pa| Regs::call(4, pa, new), op::RCX);
    page_rows(&vm, |pa| Regs::call(4, T4K, pa), op::RDX);
    want(
        &vm,
        "INIT early",
        0,
        Regs::call(22, new, 0),
        TDCX_NUM_INCORRECT,
    );
    for i in 1..6 {
        vm.ok(0, Regs::call(4, new + 0x1000 * i, new));
    }
    let v1 = |id| Regs {
        rax: 22 | 1 << 16,
        rcx: new,
        r8: id,
        ..Regs::default()
    };
    want(&vm, "x2APIC id too wide", 3, v1(1 << 32), invalid(R8));
    // The first two vCPUs were made without an id: their slots say 0.
    want(&vm, "x2APIC id not unique", 3, v1(0), X2APIC_ID_NOT_UNIQUE);
    vm.ok(3, v1(9));
    assert_eq!(
        vm.m.td_view(TDR).num_vcpus,
        4,
        "the failed one stays counted"
    );
    want(
        &vm,
        "twice",
        3,
        Regs::call(22, new, 0),
        VCPU_STATE_INCORRECT,
    );
    want(
        &vm,
        "ADDCX late",
        3,
        Regs::call(4, T4K, new),
        VCPU_STATE_INCORRECT,
    );
    want(
        &vm,
        "FLUSH elsewhere",
        4,
        Regs::call(18, new, 0),
        VCPU_NOT_ASSOCIATED,
    );
    vm.ok(3, Regs::call(18, new, 0));
    want(
        &vm,
        "FLUSH twice",
        3,
        Regs::call(18, new, 0),
        VCPU_NOT_ASSOCIATED,
    );
    let state = Regs::call(26, new, 0x9120_0003_0000_0100);
    vm.ok(5, state);
    want(&vm, "associated elsewhere", 3, state, VCPU_ASSOCIATED);
    let owner = LockObj::Pamt { hpa: TDR, level: 0 };
    vm.m.lock(owner, Mode::Exclusive, Side::Host).unwrap();
    for regs in [
        Regs::call(18, new, 0),
        state,
        Regs::call(0, new, 0),
        Regs::call(4, T4K, new),
    ] {
        want(&vm, "TDR locked", 5, regs, busy(op::TDR));
    }
}

#[test]
fn enter_rows() {
    let vm = Vm::running();
    let enter = |rcx| Regs::call(0, rcx, 0);
    want(&vm, "bit 54", 1, enter(VCPU | 1 << 54), invalid(op::RCX));
    want(&vm, "bit 3", 1, enter(VCPU | 8), invalid(op::RCX));
    want(&vm, "hint", 1, enter(VCPU | 1 << 52), invalid(op::RCX));
    want(&vm, "resume L1", 1, enter(VCPU | 1 << 53), invalid(op::RCX));
    page_rows(
        &vm,
        |pa| enter(pa & !0xFFF | if pa & 0xFFF != 0 { 8 } else { 0 }),
        op::RCX,
    );
    want(&vm, "associated elsewhere", 2, enter(VCPU), VCPU_ASSOCIATED);
    let epoch = LockObj::Epoch { tdr: TDR };
    vm.m.lock(epoch, Mode::Exclusive, Side::Host).unwrap();
    want(&vm, "epoch", 1, enter(VCPU), busy(op::TD_EPOCH));
    vm.m.unlock(epoch, Mode::Exclusive);
    vm.enter(0);
    want(&vm, "already inside", 1, enter(VCPU), VCPU_STATE_INCORRECT);
    // While a vCPU is inside, TDR and TDVPR are held shared.
    want(&vm, "TDR held", 0, Regs::call(19, TDR, 0), busy(op::RCX));
    want(&vm, "TDVPR held", 1, Regs::call(18, VCPU, 0), busy(op::RCX));
    let r = vm.exit(0);
    assert_eq!((r.rax, r.rcx, r.rdx, r.r8), (1, 0, 0, 0));
    for hpa in [TDR, VCPU] {
        for level in 0..3 {
            assert_eq!(vm.m.pamt_view(hpa, level).unwrap().lock & !2, 0);
        }
    }
    vm.m.machine.tsc.store(0, SeqCst);
    want(&vm, "TSC back", 1, enter(VCPU), TSC_ROLLBACK);
}

#[test]
fn epochs() {
    let vm = Vm::running();
    vm.enter(0);
    vm.track();
    want(
        &vm,
        "previous epoch",
        0,
        Regs::call(38, TDR, 0),
        PREVIOUS_TLB_EPOCH_BUSY,
    );
    vm.enter(1);
    let v = vm.m.td_view(TDR);
    assert_eq!((v.epoch, v.ref0, v.ref1), (2, 1, 1));
    vm.exit(0);
    vm.track();
    want(
        &vm,
        "previous epoch",
        0,
        Regs::call(38, TDR, 0),
        PREVIOUS_TLB_EPOCH_BUSY,
    );
    vm.exit(1);
    vm.track();
    let epoch = LockObj::Epoch { tdr: TDR };
    vm.m.lock(epoch, Mode::Shared, Side::Host).unwrap();
    let r = want(&vm, "epoch", 0, Regs::call(38, TDR, 7), busy(op::TD_EPOCH));
    assert_eq!((r.rcx, r.rdx), (TDR, 7), "TRACK leaves RCX and RDX");
}

#[test]
fn zero_step_filter() {
    let vm = Vm::running();
    vm.block(0x1000);
    let fault = GuestEvent::EptViolation {
        gpa: 0x1234,
        qual: 2,
        rip_adv: 0,
    };
    for i in 0..7 {
        vm.enter(0);
        match vm.m.guest_event(1, fault) {
            GuestOutcome::Exit(r) => {
                assert_eq!((r.rax, r.rcx, r.rdx, r.r8), (48, 2, 0, 0x1000), "{i}");
            }
            o => panic!("{o:?}"),
        }
    }
    // The filter knows the address now.
    let enter = Regs::call(0, VCPU, 0);
    let tree = LockObj::SeptTree { tdr: TDR };
    vm.m.lock(tree, Mode::Shared, Side::Host).unwrap();
    want(&vm, "tree", 1, enter, busy(op::SEPT_TREE));
    vm.m.unlock(tree, Mode::Shared);
    let r = want(&vm, "emulated", 1, enter, 48);
    assert_eq!((r.rcx, r.rdx, r.r8), (2, 0, 0x1000));
    assert_eq!(vm.m.td_view(TDR).ref1, 0);
    vm.track();
    assert_eq!(vm.relocate(0x1000, T4K).rax, 0);
    vm.enter(0);
    vm.exit(0);
}

#[test]
fn accept_rows() {
    let vm = Vm::running();
    vm.enter(0);
    let rax = |o| match o {
        GuestOutcome::InGuest(v) => v,
        o => panic!("{o:?}"),
    };
    assert_eq!(rax(vm.accept(0, 0x4008)), invalid(op::RCX));
    assert_eq!(rax(vm.accept(0, 2)), invalid(op::RCX));
    assert_eq!(rax(vm.accept(0, 1 << 47)), invalid(op::RCX));
    assert_eq!(rax(vm.accept(0, 0x1000)), PAGE_ALREADY_ACCEPTED);
    assert_eq!(rax(vm.accept(0, 1)), PAGE_SIZE_MISMATCH | 1);
    assert_eq!(rax(vm.accept(0, 0x4000)), 0);
    assert_eq!(rax(vm.accept(0, 0x4000)), PAGE_ALREADY_ACCEPTED);
    vm.exit(0);
    for (gpa, ext) in [(0x9000, 1), (0x5000, 1 | (3 << 6 | 1 << 14) << 32)] {
        if gpa == 0x5000 {
            vm.block(gpa);
        }
        vm.enter(0);
        match vm.accept(0, gpa) {
            GuestOutcome::Exit(r) => assert_eq!((r.rax, r.rcx, r.rdx, r.r8), (48, 2, ext, gpa)),
            o => panic!("{o:?}"),
        }
    }
}

#[test]
fn accept_large_is_interruptible() {
    let vm = Vm::running();
    vm.ok(0, Regs::call3(6, 0x20_0001, TDR, LARGE));
    vm.enter(0);
    vm.m.machine.interrupt.store(true, SeqCst);
    for i in 1..4 {
        assert_eq!(
            vm.accept(0, 0x20_0001),
            GuestOutcome::InGuest(6),
            "to be repeated"
        );
        let (raw, _) = vm.m.sept_view(TDR, 0x20_0000, 1);
        assert_eq!(raw & sept::HPA, LARGE + i * 0x1000);
    }
    vm.m.machine.interrupt.store(false, SeqCst);
    assert_eq!(vm.accept(0, 0x20_0001), GuestOutcome::InGuest(0));
    let (raw, _) = vm.m.sept_view(TDR, 0x20_0000, 1);
    assert_eq!(raw, sept::leaf_entry(State::Mapped, sept::RWX, LARGE));
    assert_eq!(vm.read(0, 0x3F_FFF8), GuestOutcome::InGuest(0));
}

#[test]
fn host_priority() {
    let vm = Vm::running();
    let entry = LockObj::SeptEntry {
        tdr: TDR,
        gpa: 0x4000,
        level: 0,
    };
    vm.m.lock(entry, Mode::Exclusive, Side::Guest).unwrap();
    let block = Regs::call(7, 0x4000, TDR);
    want(&vm, "guest holds the entry", 0, block, busy(op::RCX));
    vm.m.unlock(entry, Mode::Exclusive);
    vm.enter(0);
    // The flag the host left keeps the guest out, for a second at most.
    assert_eq!(vm.accept(0, 0x4000), GuestOutcome::InGuest(busy(op::RCX)));
    vm.m.machine.tsc.fetch_add(2_000_000_000, SeqCst);
    match vm.accept(0, 0x4000) {
        GuestOutcome::Exit(r) => assert_eq!(r.rax, HOST_PRIORITY_BUSY_TIMEOUT),
        o => panic!("{o:?}"),
    }
    // The host repeats its call, the guest goes on.
    let rd = vm.ok(0, Regs::call(25, 0x4000, TDR));
    assert_eq!(rd.rdx, 2 << 8);
    let mut r = Regs::call(0, VCPU | 1 << 52, 0);
    assert_eq!(
        vm.m.seamcall(1, &mut r),
        Outcome::Entered,
        "the hint is allowed now"
    );
    assert_eq!(vm.accept(0, 0x4000), GuestOutcome::InGuest(0));
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
fn teardown() {
    let vm = Vm::running();
    want(&vm, "vCPUs", 0, Regs::call(19, TDR, 0), FLUSHVP_NOT_DONE);
    want(
        &vm,
        "FREEID",
        0,
        Regs::call(20, TDR, 0),
        LIFECYCLE_STATE_INCORRECT,
    );
    for v in 0..2 {
        vm.ok(1 + v, Regs::call(18, VCPU + 0x1_0000 * v as u64, 0));
    }
    vm.ok(0, Regs::call(19, TDR, 0));
    want(
        &vm,
        "twice",
        0,
        Regs::call(19, TDR, 0),
        LIFECYCLE_STATE_INCORRECT,
    );
    want(
        &vm,
        "caches",
        0,
        Regs::call(20, TDR, 0),
        WBCACHE_NOT_COMPLETE,
    );
    vm.m.machine.interrupt.store(true, SeqCst);
    want(
        &vm,
        "interrupted",
        0,
        Regs::call(40, 0, 0),
        INTERRUPTED_RESUMABLE,
    );
    want(
        &vm,
        "interrupted",
        0,
        Regs::call(40, 1, 0),
        INTERRUPTED_RESUMABLE,
    );
    vm.m.machine.interrupt.store(false, SeqCst);
    vm.ok(0, Regs::call(40, 1, 0));
    want(
        &vm,
        "KeyID in use",
        0,
        Regs::call(9, TD2, HKID),
        HKID_NOT_FREE,
    );
    vm.ok(0, Regs::call(20, TDR, 0));
    want(
        &vm,
        "children",
        0,
        Regs::call(28, TDR, 0),
        TD_ASSOCIATED_PAGES_EXIST,
    );
    let mut left = vm.m.td_view(TDR).chldcnt;
    for pa in (TDMR + 0x1000..LARGE).step_by(4096) {
        if vm.m.pamt_view(pa, 0).unwrap().pt != 0 {
            vm.ok(0, Regs::call(28, pa, 0));
            left -= 1;
        }
    }
    assert_eq!(left, 0);
    vm.ok(0, Regs::call(28, TDR, 0));
    assert_eq!(vm.m.pamt_view(TDR, 0).unwrap().pt, 0);
    vm.ok(0, Regs::call(9, TD2, HKID));
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
