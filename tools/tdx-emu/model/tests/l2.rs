// SPDX-License-Identifier: GPL-2.0
//! TDs with L2 VMs: aliases follow their page.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::*;
use tdx_emu_model::regs::{leaf, op};
use tdx_emu_model::status::*;
use tdx_emu_model::{GuestEvent, GuestOutcome, PhysMem, Regs};

const NONE: u64 = u64::MAX;
const RWX: u64 = 0x8007;
const T4K: u64 = POOL + 0x8000;

fn v1(leaf_no: u16, rcx: u64, rdx: u64, pages: [u64; 4]) -> Regs {
    Regs {
        rax: u64::from(leaf_no) | 1 << 16,
        rcx,
        rdx,
        r8: pages[0],
        r9: pages[1],
        r10: pages[2],
        r11: pages[3],
        ..Regs::default()
    }
}

/// A running TD with two L2 VMs; VM 1 has tables down to 4 KiB.
fn partitioned() -> Vm {
    let vm = Vm::bare();
    vm.create(TDR, HKID);
    for i in 0..8 {
        vm.ok(0, Regs::call(leaf::MNG_ADDCX, TDCX + 0x1000 * i, TDR));
    }
    vm.params(1);
    vm.m.machine.write(PARAMS + 16, 8 | 2 << 16);
    vm.ok(0, Regs::call(leaf::MNG_INIT, TDR, PARAMS));
    vm.ok(0, Regs::call(leaf::VP_CREATE, VCPU, TDR));
    for i in 1..12 {
        vm.ok(0, Regs::call(leaf::VP_ADDCX, VCPU + 0x1000 * i, VCPU));
    }
    vm.ok(1, Regs::call(leaf::VP_INIT, VCPU, 0));
    for (i, level) in [3u64, 2, 1].into_iter().enumerate() {
        let page = SEPT + 0x2000 * i as u64;
        vm.ok(0, v1(3, level, TDR, [page, page + 0x1000, NONE, NONE]));
    }
    for i in 0..4 {
        vm.ok(
            0,
            Regs {
                r9: SOURCE,
                ..Regs::call3(2, i * 0x1000, TDR, POOL + i * 0x1000)
            },
        );
    }
    vm.ok(0, Regs::call3(6, 0x4000, TDR, POOL + 0x4000));
    vm.ok(0, Regs::call(leaf::MR_FINALIZE, TDR, 0));
    vm
}

fn attr(vm: &Vm, gpa: u64, rdx: u64, r8: u64) -> GuestOutcome {
    vm.m.guest_event(1, GuestEvent::AttrWrite { rcx: gpa, rdx, r8 })
}

fn attrs(vm: &Vm, gpa: u64) -> u64 {
    vm.ok(0, Regs::call(leaf::MEM_SEPT_RD, gpa, TDR | 1)).r8
}

#[test]
fn alias_moves_with_its_page() {
    let vm = partitioned();
    vm.enter(0);
    assert_eq!(
        attr(&vm, 0x1000, RWX << 16, 0x7 << 16),
        GuestOutcome::InGuest(0)
    );
    vm.exit(0);
    assert_eq!(attrs(&vm, 0x1000), RWX << 16);
    vm.block(0x1000);
    assert_eq!(attrs(&vm, 0x1000), RWX << 16, "saved while blocked");
    vm.track();
    assert_eq!(vm.relocate(0x1000, T4K).rax, 0);
    assert_eq!(attrs(&vm, 0x1000), RWX << 16);
    // REMOVE takes the alias away.
    vm.block(0x1000);
    vm.track();
    assert_eq!(vm.ok(0, Regs::call(29, 0x1000, TDR)).rcx, T4K);
    assert_eq!(attrs(&vm, 0x1000), 0);
}

#[test]
fn pending_alias() {
    let vm = partitioned();
    vm.enter(0);
    assert_eq!(
        attr(&vm, 0x4000, RWX << 16, 0x7 << 16),
        GuestOutcome::InGuest(0)
    );
    vm.exit(0);
    assert_eq!(
        vm.relocate(0x4000, T4K).rax,
        with_op(GPA_RANGE_NOT_BLOCKED, op::RCX)
    );
    vm.block(0x4000);
    vm.track();
    assert_eq!(vm.relocate(0x4000, T4K).rax, 0);
    // Blocking an alias that was not in use yet loses its permissions.
    assert_eq!(attrs(&vm, 0x4000), 0x8000 << 16);
}

#[test]
fn attribute_rows() {
    let vm = partitioned();
    vm.enter(0);
    let invalid_in = |o| GuestOutcome::InGuest(invalid(o));
    assert_eq!(attr(&vm, 0x1000, RWX, 0), invalid_in(op::RDX), "L1");
    assert_eq!(
        attr(&vm, 0x1000, RWX << 48, 0),
        invalid_in(op::RDX),
        "no VM 3"
    );
    assert_eq!(attr(&vm, 0x1000, 0, 7 << 48), invalid_in(R8));
    assert_eq!(
        attr(&vm, 0x1000, 7 << 16, 7 << 16),
        invalid_in(op::RDX),
        "not valid"
    );
    assert_eq!(attr(&vm, 0x1008, RWX << 16, 7 << 16), invalid_in(op::RCX));
    let bad = GuestOutcome::InGuest(PAGE_ATTR_INVALID);
    assert_eq!(attr(&vm, 0x1000, 0x8002 << 16, 7 << 16), bad, "W without R");
    let missing = GuestOutcome::InGuest(with_l2(L2_SEPT_WALK_FAILED, 2, 3));
    assert_eq!(
        attr(&vm, 0x1000, RWX << 32, 7 << 32),
        missing,
        "VM 2 has no tables"
    );
    assert_eq!(
        attr(&vm, 1, RWX << 16, 7 << 16),
        GuestOutcome::InGuest(PAGE_SIZE_MISMATCH | 1)
    );
    match attr(&vm, 0x9000, RWX << 16, 7 << 16) {
        GuestOutcome::Exit(r) => assert_eq!((r.rax, r.rdx, r.r8), (48, 5, 0x9000)),
        o => panic!("{o:?}"),
    }
    vm.enter(0);
    let rd = |gpa| vm.m.guest_event(1, GuestEvent::AttrRead { rcx: gpa });
    assert_eq!(rd(0x1000), GuestOutcome::InGuest(0));
    assert_eq!(rd(0x1008), invalid_in(op::RCX));
    // Taking all permissions away removes the alias.
    assert_eq!(
        attr(&vm, 0x1000, RWX << 16, 7 << 16),
        GuestOutcome::InGuest(0)
    );
    assert_eq!(
        attr(&vm, 0x1000, 0x8000 << 16, 0xF << 16),
        GuestOutcome::InGuest(0)
    );
    vm.exit(0);
    assert_eq!(attrs(&vm, 0x1000), 0);
}

#[test]
fn l2_tables() {
    let vm = partitioned();
    let exists = v1(3, 1, TDR | 1, [T4K, POOL + 0x9000, NONE, NONE]);
    let r = vm.ok(0, exists);
    assert_eq!(
        (r.r8, r.r9),
        (T4K | 1 << 63, (POOL + 0x9000) | (1 << 63)),
        "not used"
    );
    let again = v1(3, 1, TDR, [NONE, POOL + 0x9000, NONE, NONE]);
    let r = vm.call(0, again);
    assert_eq!(r.rax, with_l2(L2_SEPT_ENTRY_NOT_FREE, 1, 1));
    let deep = v1(3, 1, TDR, [NONE, NONE, T4K, NONE]);
    assert_eq!(vm.call(0, deep).rax, with_l2(L2_SEPT_WALK_FAILED, 2, 3));
    // Interrupted after the first page, resumed without it.
    let both = v1(3, 0x20_0001, TDR, [T4K, POOL + 0x9000, NONE, NONE]);
    vm.m.machine.interrupt.store(true, SeqCst);
    let r = vm.call(0, both);
    assert_eq!(r.rax, INTERRUPTED_RESUMABLE);
    assert_eq!(
        (r.rcx, r.rdx, r.r8, r.r9),
        (0x20_0001, TDR, NONE, POOL + 0x9000)
    );
    let r = vm.ok(0, Regs { rax: both.rax, ..r });
    assert_eq!((r.r8, r.r9), (NONE, NONE));
    vm.m.machine.interrupt.store(false, SeqCst);
    let children = vm.m.td_view(TDR).chldcnt;
    vm.block(0x20_0001);
    vm.track();
    let r = vm.ok(0, v1(30, 0x20_0001, TDR, [0; 4]));
    assert_eq!((r.rcx, r.r9, r.r10), (T4K, POOL + 0x9000, NONE));
    assert_eq!(vm.m.td_view(TDR).chldcnt, children - 2);
}

#[test]
fn large_alias() {
    let vm = partitioned();
    vm.ok(0, Regs::call3(6, 0x20_0001, TDR, LARGE));
    vm.enter(0);
    assert_eq!(vm.accept(0, 0x20_0001), GuestOutcome::InGuest(0));
    assert_eq!(
        attr(&vm, 0x20_0001, RWX << 16, 7 << 16),
        GuestOutcome::InGuest(0)
    );
    vm.exit(0);
    vm.block(0x20_0001);
    vm.track();
    let demote = |r9| Regs {
        r9,
        r10: NONE,
        r11: NONE,
        ..Regs::call3(leaf::MEM_PAGE_DEMOTE, 0x20_0001, TDR, T4K)
    };
    assert_eq!(
        vm.call(0, demote(NONE)).rax,
        with_op(L2_SEPT_PAGE_NOT_PROVIDED, op::R9)
    );
    assert_eq!(
        vm.call(0, demote(T4K)).rax,
        busy(op::R9),
        "one page for both"
    );
    vm.ok(0, demote(POOL + 0x9000));
    for gpa in [0x20_0000, 0x20_7000, 0x3F_F000] {
        assert_eq!(attrs(&vm, gpa), RWX << 16);
        vm.block(gpa);
        vm.track();
    }
    assert_eq!(vm.relocate(0x20_7000, POOL + 0xA000).rax, 0);
    assert_eq!(attrs(&vm, 0x20_7000), RWX << 16);
    for gpa in [0x20_0000, 0x3F_F000] {
        vm.ok(0, Regs::call(leaf::MEM_RANGE_UNBLOCK, gpa, TDR));
    }
    vm.block(0x20_0001);
    vm.track();
    let promote = v1(23, 0x20_0001, TDR, [0; 4]);
    let moved = with_op(EPT_INVALID_PROMOTE_CONDITIONS, op::RCX);
    assert_eq!(vm.call(0, promote).rax, moved, "not contiguous");
    vm.ok(0, Regs::call(leaf::MEM_RANGE_UNBLOCK, 0x20_0001, TDR));
    vm.block(0x20_7000);
    vm.track();
    assert_eq!(vm.relocate(0x20_7000, LARGE + 0x7000).rax, 0);
    vm.block(0x20_0001);
    vm.track();
    let r = vm.ok(0, promote);
    assert_eq!((r.rcx, r.r9), (T4K, POOL + 0x9000));
    assert_eq!(attrs(&vm, 0x20_0001), RWX << 16);
}
