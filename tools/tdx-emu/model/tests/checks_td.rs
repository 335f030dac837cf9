// SPDX-License-Identifier: GPL-2.0
//! The check tables of the MNG, MR and VP leaves, and the life cycle of a TD.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::*;
use tdx_emu_model::locks::{Mode, Side};
use tdx_emu_model::pseudo::LockObj;
use tdx_emu_model::regs::op;
use tdx_emu_model::status::*;
use tdx_emu_model::{PhysMem, Regs};

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
        ("many vCPUs", 2, 577, invalid(op::MAX_VCPUS)),
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
    vm.m.machine.write(PARAMS + 16, 8 | 1 << 24);
    vm.m.machine.write(PARAMS + 224, 1 | 1 << 4);
    let init = Regs::call(21, TDR, PARAMS);
    let caps = invalid(op::ARCH_CAPABILITIES);
    want(&vm, "arch caps that cannot be chosen", 0, init, caps);
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
    assert_eq!(vm.ok(5, Regs::call(26, new, 0)).r8, HKID << 2, "VPID");
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
