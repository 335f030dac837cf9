// SPDX-License-Identifier: GPL-2.0
//! TDH.VP.ENTER, epochs, and what happens inside the guest.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::*;
use tdx_emu_model::locks::{Mode, Side};
use tdx_emu_model::pseudo::LockObj;
use tdx_emu_model::regs::op;
use tdx_emu_model::sept::{self, State};
use tdx_emu_model::status::*;
use tdx_emu_model::{GuestEvent, GuestOutcome, Outcome, Regs};

const T4K: u64 = POOL + 0x8000;

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
fn violations_beyond_the_guest_address_width() {
    let vm = Vm::running();
    for (gpa, ext) in [(1 << 63, 0), (1 << 63 | 0x4000, 6), (1 << 47 | 0x4000, 0)] {
        vm.enter(0);
        let event = GuestEvent::EptViolation {
            gpa,
            qual: 2,
            rip_adv: 64,
        };
        match vm.m.guest_event(1, event) {
            GuestOutcome::Exit(r) => assert_eq!((r.rax, r.rdx, r.r8), (48, ext, gpa)),
            o => assert_eq!((o, ext), (GuestOutcome::VirtException(gpa), 6)),
        }
        if vm.m.in_guest(1).is_some() {
            vm.exit(0);
        }
    }
}

#[test]
fn exit_of_a_dead_td() {
    let vm = Vm::running();
    vm.enter(0);
    vm.m.set_fatal(TDR, 1);
    let event = GuestEvent::EptViolation {
        gpa: 0x9000,
        qual: 0x182,
        rip_adv: 0,
    };
    match vm.m.guest_event(1, event) {
        GuestOutcome::Exit(r) => assert_eq!(
            (r.rax, r.rcx, r.rdx, r.r8),
            (NON_RECOVERABLE_TD_NON_ACCESSIBLE | 48, 0x182, 0, 0)
        ),
        o => panic!("{o:?}"),
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
