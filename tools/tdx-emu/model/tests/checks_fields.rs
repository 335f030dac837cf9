// SPDX-License-Identifier: GPL-2.0
//! The check tables of MNG.RD, VP.RD and VP.WR.

mod common;

use common::*;
use tdx_emu_model::locks::{Mode, Side};
use tdx_emu_model::pseudo::LockObj;
use tdx_emu_model::regs::op;
use tdx_emu_model::status::*;
use tdx_emu_model::Regs;

const TD2: u64 = TDMR + 0x10_0000;
const T4K: u64 = POOL + 0x8000;
/// No field at all: what is wrong with the TD or vCPU is told first.
const BAD: u64 = 0xFF00_0000;
const MNG_RD: u16 = 11;
const VP_RD: u16 = 26;
const VP_WR: u16 = 43;
const GPR: u64 = 0x9000_0003_0000_0000;
const STATE_DETAILS: u64 = 0x9120_0003_0000_0100;

fn want(vm: &Vm, what: &str, lp: usize, regs: Regs, status: u64) {
    let r = vm.call(lp, Regs { r8: 5, ..regs });
    assert_eq!(r.rax, status, "{what}: {:#x} not {status:#x}", r.rax);
    assert_eq!(r.r8, 0, "{what}: no value");
}

/// The operand, and the locks on the way.
fn operand_rows(vm: &Vm, leaf: u16, page: u64) {
    let kind = with_op(PAGE_METADATA_INCORRECT, op::RCX);
    let range = with_op(OPERAND_ADDR_RANGE_ERROR, op::RCX);
    for (what, pa, status) in [
        ("misaligned", page + 8, invalid(op::RCX)),
        ("KeyID bits", page | 33 << 46, invalid(op::RCX)),
        ("outside", OUTSIDE, range),
        ("not initialized", UNINIT, range),
        ("reserved", RESERVED, kind),
        ("free", T4K, kind),
        ("TDCX", TDCX, kind),
        ("the other kind", TDR + VCPU - page, kind),
    ] {
        want(vm, what, 1, Regs::call(leaf, pa, BAD), status);
    }
    let regs = Regs::call(leaf, page, BAD);
    let owner = if page == TDR { op::RCX } else { op::TDR };
    let pamt = |hpa| LockObj::Pamt { hpa, level: 0 };
    for (what, lock, operand) in [
        ("page", pamt(page), op::RCX),
        ("TDR", pamt(TDR), owner),
        ("op state", LockObj::OpState { tdr: TDR }, op::OP_STATE),
    ] {
        vm.m.lock(lock, Mode::Exclusive, Side::Host).unwrap();
        want(vm, what, 1, regs, busy(operand));
        vm.m.unlock(lock, Mode::Exclusive);
    }
}

/// What state the TD is in. `found`: the field is not.
fn state_rows(vm: &Vm, leaf: u16, page: u64, allowed: &[u64], found: u64) {
    let regs = Regs::call(leaf, page, BAD);
    for state in 0..=10 {
        vm.m.set_op_state(TDR, state);
        let status = if allowed.contains(&state) {
            found
        } else {
            OP_STATE_INCORRECT
        };
        want(vm, &format!("op state {state}"), 1, regs, status);
    }
    vm.m.set_op_state(TDR, 2);
    vm.m.set_fatal(TDR, 1);
    want(vm, "fatal", 1, regs, TD_FATAL);
    vm.m.set_fatal(TDR, 0);
    want(vm, "alive", 1, regs, found);
}

const READ: [u64; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
const WRITE: [u64; 8] = [1, 2, 3, 6, 7, 8, 9, 10];

#[test]
fn mng_rd() {
    let vm = Vm::running();
    operand_rows(&vm, MNG_RD, TDR);
    state_rows(&vm, MNG_RD, TDR, &READ, METADATA_FIELD_ID_INCORRECT);
    let no_field = Regs::call(MNG_RD, TDR, 0x9100_0003_0000_00FF);
    want(&vm, "no field", 0, no_field, METADATA_FIELD_ID_INCORRECT);
    let regs = Regs::call(MNG_RD, TD2, BAD);
    vm.ok(0, Regs::call(9, TD2, 40));
    want(&vm, "no key", 0, regs, TD_KEYS_NOT_CONFIGURED);
    vm.ok(0, Regs::call(8, TD2, 0));
    want(&vm, "no TDCS", 0, regs, TDCS_NOT_ALLOCATED);
    for i in 1..=6 {
        vm.ok(0, Regs::call(1, TD2 + 0x1000 * i, TD2));
    }
    want(&vm, "not initialized", 0, regs, OP_STATE_INCORRECT);
}

#[test]
fn vp_rd_and_wr() {
    let vm = Vm::running();
    for (leaf, states, found) in [
        (VP_RD, &READ[..], METADATA_FIELD_ID_INCORRECT),
        (VP_WR, &WRITE[..], METADATA_FIELD_ID_INCORRECT),
    ] {
        operand_rows(&vm, leaf, VCPU);
        state_rows(&vm, leaf, VCPU, states, found);
        let regs = Regs::call(leaf, VCPU, BAD);
        want(&vm, "on another LP", 3, regs, VCPU_ASSOCIATED);
    }
    let wr = |field, r9| Regs {
        r9,
        ..Regs::call(VP_WR, VCPU, field)
    };
    for (what, regs) in [
        ("a register", wr(GPR, u64::MAX)),
        ("no bit", wr(0x2000_0000_0000_000B, 0)),
        ("bits that are fixed", wr(0x2000_0000_0000_000B, !1)),
    ] {
        want(&vm, what, 1, regs, METADATA_FIELD_NOT_WRITABLE);
    }
    for v in 0..2 {
        vm.ok(1 + v, Regs::call(18, VCPU + 0x1_0000 * v as u64, 0));
    }
    vm.ok(0, Regs::call(19, TDR, 0));
    for leaf in [VP_RD, VP_WR] {
        let regs = Regs::call(leaf, VCPU, BAD);
        want(&vm, "keys gone", 1, regs, TD_KEYS_NOT_CONFIGURED);
    }
}

#[test]
fn vcpu_that_is_not_ready() {
    let vm = Vm::building();
    let new = VCPU + 0x2_0000;
    vm.ok(0, Regs::call(10, new, TDR));
    for leaf in [VP_RD, VP_WR] {
        let regs = Regs::call(leaf, new, BAD);
        want(&vm, "incomplete", 3, regs, TDCX_NUM_INCORRECT);
    }
    for i in 1..15 {
        vm.ok(0, Regs::call(4, new + 0x1000 * i, new));
    }
    let full = vm.call(0, Regs::call(4, new + 0xF000, new));
    assert_eq!(full.rax, TDCX_NUM_INCORRECT, "16 pages");
    assert_eq!(vm.m.pamt_view(new + 0xF000, 0).unwrap().pt, 0);
    for leaf in [VP_RD, VP_WR] {
        let regs = Regs::call(leaf, new, BAD);
        want(&vm, "not initialized", 3, regs, VCPU_STATE_INCORRECT);
    }
}

/// A TD of one vCPU that nobody may debug, from a generator that runs dry.
#[test]
fn production_td() {
    let vm = Vm::bare();
    let status = |regs| vm.call(0, regs).rax;
    let dry = |on| {
        let flag = &vm.m.machine.no_entropy;
        flag.store(on, std::sync::atomic::Ordering::SeqCst);
    };
    dry(true);
    assert_eq!(status(Regs::call(9, TDR, HKID)), RND_NO_ENTROPY);
    assert_eq!(vm.m.pamt_view(TDR, 0).unwrap().pt, 0);
    dry(false);
    vm.create(TDR, HKID);
    for i in 0..5 {
        vm.ok(0, Regs::call(1, TDCX + 0x1000 * i, TDR));
    }
    dry(true);
    let last = Regs::call(1, TDCX + 0x5000, TDR);
    assert_eq!(status(last), RND_NO_ENTROPY);
    assert_eq!(vm.m.td_view(TDR).num_tdcx, 5);
    dry(false);
    vm.ok(0, last);
    vm.params(0);
    tdx_emu_model::PhysMem::write(&vm.m.machine, PARAMS + 16, 1);
    vm.ok(0, Regs::call(21, TDR, PARAMS));
    for v in 0..2 {
        let tdvpr = VCPU + 0x1_0000 * v;
        vm.ok(0, Regs::call(10, tdvpr, TDR));
        for i in 1..6 {
            vm.ok(0, Regs::call(4, tdvpr + 0x1000 * i, tdvpr));
        }
    }
    vm.ok(0, Regs::call(22, VCPU, 0));
    let second = Regs::call(22, VCPU + 0x1_0000, 0);
    assert_eq!(status(second), MAX_VCPUS_EXCEEDED);
    assert_eq!(vm.m.td_view(TDR).num_vcpus, 1);
    let gpr = Regs::call(VP_RD, VCPU, GPR);
    want(&vm, "a register", 0, gpr, METADATA_FIELD_NOT_READABLE);
    vm.ok(0, Regs::call(VP_RD, VCPU, STATE_DETAILS));
}
