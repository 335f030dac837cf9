// SPDX-License-Identifier: GPL-2.0
//! The rows of the check tables that belong to single TDH.MEM leaves, and
//! their effects.

mod common;

use common::*;
use tdx_emu_model::locks::{Mode, Side};
use tdx_emu_model::pseudo::LockObj;
use tdx_emu_model::regs::{leaf, leaf_name, op};
use tdx_emu_model::sept::{self, State};
use tdx_emu_model::status::*;
use tdx_emu_model::{Outcome, Regs};

const NONE: u64 = u64::MAX;
const T4K: u64 = POOL + 0x8000;
const BLOCKED_2M: u64 = LARGE;

fn ready() -> Vm {
    let vm = Vm::running();
    // A blocked and tracked page, an empty table, a large page.
    vm.block(0x2000);
    let table = SEPT + 0x8000;
    vm.ok(0, Regs::call3(leaf::MEM_SEPT_ADD, 0x60_0001, TDR, table));
    vm.ok(0, Regs::call(leaf::MEM_RANGE_BLOCK, 0x60_0001, TDR));
    vm.ok(
        0,
        Regs::call3(leaf::MEM_PAGE_AUG, 0x20_0001, TDR, BLOCKED_2M),
    );
    vm.block(0x20_0001);
    vm.track();
    vm
}

fn demote_regs() -> Regs {
    Regs {
        r9: NONE,
        r10: NONE,
        r11: NONE,
        ..Regs::call3(leaf::MEM_PAGE_DEMOTE, 0x20_0001, TDR, SEPT + 0x9000)
    }
}

fn check(what: &str, vm: &Vm, regs: Regs, want: u64) -> Regs {
    let name = leaf_name(regs.rax as u16).unwrap_or("?");
    let before = vm.m.td_view(TDR);
    let r = vm.call(0, regs);
    assert_eq!(r.rax, want, "{name}: {what}: {:#x} not {want:#x}", r.rax);
    let after = vm.m.td_view(TDR);
    assert_eq!(before.chldcnt, after.chldcnt, "{name}: {what}");
    assert_eq!(
        (after.sept_lock & 1, after.epoch_lock & 1),
        (before.sept_lock & 1, before.epoch_lock & 1),
        "{name}: {what}: a lock was left"
    );
    r
}

/// PAGE.ADD holds the TDR exclusively: an entry that is locked all the same is
/// a broken module.
#[test]
fn add_at_a_locked_entry() {
    let vm = Vm::building();
    let entry = LockObj::SeptEntry {
        tdr: TDR,
        gpa: 0x9000,
        level: 0,
    };
    vm.m.lock(entry, Mode::Exclusive, Side::Host).unwrap();
    let mut add = Regs {
        r9: SOURCE,
        ..Regs::call3(leaf::MEM_PAGE_ADD, 0x9000, TDR, OUTSIDE)
    };
    let bad = vm.call(0, add);
    assert_eq!(bad.rax, with_op(OPERAND_ADDR_RANGE_ERROR, op::R8));
    add.r8 = T4K;
    assert_eq!(vm.m.seamcall(0, &mut add), Outcome::VmFailInvalid);
}

/// RELOCATE's own rows and their order.
#[test]
fn relocate_rows() {
    let vm = ready();
    let same = Regs::call3(5, 0x2000, TDR, POOL + 0x2000);
    let r = check("same page", &vm, same, invalid(R8));
    assert_eq!((r.rcx, r.rdx), (0, 0));
    // Before the tracking check ...
    let vm = ready();
    vm.block(0x1000);
    let same = Regs::call3(5, 0x1000, TDR, POOL + 0x1000);
    check("same page, not tracked", &vm, same, invalid(R8));
    // ... which comes before all other checks of the target.
    let bad = Regs::call3(5, 0x1000, TDR, OUTSIDE);
    check(
        "bad target, not tracked",
        &vm,
        bad,
        with_op(TLB_TRACKING_NOT_DONE, op::RCX),
    );
    let src = LockObj::Pamt {
        hpa: POOL + 0x1000,
        level: 0,
    };
    vm.m.lock(src, Mode::Shared, Side::Host).unwrap();
    let r = check("source locked", &vm, bad, busy(op::RCX));
    assert_eq!((r.rcx, r.rdx), (0, 0));
    // A GPA inside a large page.
    let inside = Regs::call3(5, 0x20_3000, TDR, T4K);
    let r = check("large page", &vm, inside, with_op(EPT_WALK_FAILED, op::RCX));
    assert_eq!(r.rdx, 1 | 3 << 8);
}

#[test]
fn relocate_effects() {
    let vm = ready();
    let before = vm.m.td_view(TDR);
    let r = vm.relocate(0x2000, T4K);
    assert_eq!((r.rax, r.rcx, r.rdx, r.r8), (0, POOL + 0x2000, 0, T4K));
    assert_eq!(vm.m.td_view(TDR), before);
    let old = vm.m.pamt_view(POOL + 0x2000, 0).unwrap();
    assert_eq!((old.pt, old.owner, old.bepoch, old.lock), (0, TDR, 1, 0));
    let new = vm.m.pamt_view(T4K, 0).unwrap();
    assert_eq!((new.pt, new.owner, new.bepoch, new.lock), (3, TDR, 0, 0));
    let raw = vm.m.sept_view(TDR, 0x2000, 0).0;
    assert_eq!(raw, sept::leaf_entry(State::Mapped, sept::RWX, T4K));
}

/// Op states without tracking need no BLOCK.
#[test]
fn relocate_before_finalize() {
    let vm = Vm::building();
    assert_eq!(vm.relocate(0x1000, T4K).rax, 0);
    assert_eq!(vm.debug_read(0x1000), 1 << 32);
    assert_eq!(vm.relocate(0x4000, POOL + 0x9000).rax, 0);
    assert_eq!(vm.state(0x4000), 2);
    vm.block(0x2000);
    assert_eq!(vm.relocate(0x2000, POOL + 0xA000).rax, 0);
    assert_eq!(vm.state(0x2000), 4);
}

#[test]
fn block_does_not_refresh() {
    let vm = ready();
    let r = vm.call(0, Regs::call(7, 0x2000, TDR));
    assert_eq!(r.rax, 0x0B07_0000_0001);
    assert_eq!(vm.m.pamt_view(POOL + 0x2000, 0).unwrap().bepoch, 1);
    assert_eq!(vm.relocate(0x2000, T4K).rax, 0);
}

#[test]
fn page_add_source() {
    let vm = Vm::building();
    for (what, r9) in [
        ("misaligned", SOURCE + 8),
        ("above MAXPA", SOURCE | 1 << 52),
        ("in the SEAM range", 0x3F00_0000),
        ("private KeyID", SOURCE | 33 << 46),
    ] {
        let regs = Regs {
            r9,
            ..Regs::call3(2, 0x9000, TDR, T4K)
        };
        check(what, &vm, regs, invalid(op::R9));
    }
    let regs = Regs {
        r9: SOURCE | 3 << 46,
        ..Regs::call3(2, 0x9000, TDR, T4K)
    };
    assert_eq!(vm.call(0, regs).rax, 0, "a shared KeyID is fine");
}

#[test]
fn large_pages() {
    let vm = ready();
    // DEMOTE: flags before the TDR, interrupt and PAMT lock last.
    let mut regs = demote_regs();
    regs.rdx = TDR | 2;
    check("reserved flag", &vm, regs, invalid(op::RDX));
    vm.m.machine
        .interrupt
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let r = check("interrupted", &vm, demote_regs(), INTERRUPTED_RESTARTABLE);
    assert_eq!((r.rcx, r.rdx), (0x20_0001, TDR));
    vm.m.machine
        .interrupt
        .store(false, std::sync::atomic::Ordering::SeqCst);
    let own = LockObj::Pamt {
        hpa: BLOCKED_2M,
        level: 1,
    };
    vm.m.lock(own, Mode::Shared, Side::Host).unwrap();
    let r = check("page locked", &vm, demote_regs(), busy(op::RCX));
    assert_eq!((r.rcx, r.rdx), (0, 0));
    vm.m.unlock(own, Mode::Shared);
    let children = vm.m.td_view(TDR).chldcnt;
    vm.ok(0, demote_regs());
    assert_eq!(vm.m.td_view(TDR).chldcnt, children + 1);
    for i in [0, 1, 511] {
        let (raw, level) = vm.m.sept_view(TDR, 0x20_0000 + i * 0x1000, 0);
        assert_eq!(
            (raw, level),
            (
                sept::leaf_entry(State::Pending, 0, BLOCKED_2M + i * 0x1000),
                0
            )
        );
        assert_eq!(vm.m.pamt_view(BLOCKED_2M + i * 0x1000, 0).unwrap().pt, 3);
    }
    assert_eq!(vm.m.pamt_view(BLOCKED_2M, 1).unwrap().pt, 0);
    // PROMOTE: a child that differs, a locked child.
    vm.block(0x20_0001);
    vm.track();
    let promote = Regs::call(23, 0x20_0001, TDR);
    let child = LockObj::SeptEntry {
        tdr: TDR,
        gpa: 0x20_5000,
        level: 0,
    };
    vm.m.lock(child, Mode::Exclusive, Side::Guest).unwrap();
    let r = check("child locked", &vm, promote, busy(op::RCX));
    assert_eq!(r.rdx, 1 | 129 << 8);
    vm.m.unlock(child, Mode::Exclusive);
    let (raw, _) = vm.m.sept_view(TDR, 0x20_5000, 0);
    assert_eq!(raw & sept::TDEL, 0);
    vm.m.poke_sept(TDR, 0x20_6000, 0, sept::INIT);
    check(
        "child free",
        &vm,
        promote,
        with_op(EPT_INVALID_PROMOTE_CONDITIONS, op::RCX),
    );
    let back = sept::leaf_entry(State::Pending, 0, BLOCKED_2M + 0x6000);
    vm.m.poke_sept(TDR, 0x20_6000, 0, back);
    let (first, _) = vm.m.sept_view(TDR, 0x20_5000, 0);
    vm.m.poke_sept(TDR, 0x20_5000, 0, first & !sept::TDHP);
    let r = vm.ok(0, promote);
    assert_eq!(r.rcx, SEPT + 0x9000);
    assert_eq!(vm.m.td_view(TDR).chldcnt, children);
    assert_eq!(vm.m.pamt_view(BLOCKED_2M, 1).unwrap().pt, 3);
}

#[test]
fn sept_pages() {
    let vm = ready();
    let add = |rdx, r8| Regs::call3(3, 0x1, rdx, r8);
    let incorrect = with_op(EPT_ENTRY_STATE_INCORRECT, op::RCX);
    let r = check("exists", &vm, add(TDR, T4K), incorrect);
    assert_eq!((r.rcx, r.rdx), (7, 1 | 0x84 << 8));
    assert_eq!(vm.call(0, add(TDR | 1, T4K)).rax, 0, "existing allowed");
    check(
        "no page",
        &vm,
        Regs::call3(3, 0x80_0001, TDR, NONE),
        invalid(R8),
    );
    let used = Regs::call(30, 0x1, TDR);
    vm.block(0x1);
    vm.track();
    let r = check("children", &vm, used, with_op(EPT_PAGE_NOT_FREE, op::RCX));
    assert_eq!((r.rcx, r.rdx), (0, 1 | 0x81 << 8));
    let r = vm.ok(0, Regs::call(30, 0x60_0001, TDR));
    assert_eq!(r.rcx, SEPT + 0x8000);
    let mut v1 = Regs::call3(3, 0x80_0001, TDR, T4K);
    v1.rax |= 1 << 16;
    (v1.r9, v1.r10, v1.r11) = (POOL + 0x9000, NONE, NONE);
    check("no such L2 VM", &vm, v1, invalid(op::R9));
    v1.r9 = NONE;
    let r = vm.ok(0, v1);
    assert_eq!((r.r8, r.r9), (NONE, NONE));
}

#[test]
fn debug_access() {
    let vm = ready();
    let r = vm.ok(0, Regs::call3(14, 0x1008, TDR, 0x1234));
    assert_eq!(r.r8, 1 << 32 | 8, "WR gives the old content");
    assert_eq!(vm.debug_read(0x1008), 0x1234);
    let vm = Vm::bare();
    vm.create(TDR, HKID);
    for i in 0..6 {
        vm.ok(0, Regs::call(leaf::MNG_ADDCX, TDCX + 0x1000 * i, TDR));
    }
    vm.params(0);
    vm.ok(0, Regs::call(leaf::MNG_INIT, TDR, PARAMS));
    check("production TD", &vm, Regs::call(12, 0, TDR), TD_NON_DEBUG);
    check(
        "attributes",
        &vm,
        Regs::call(25, 3, TDR | 1),
        invalid(op::RDX),
    );
}
