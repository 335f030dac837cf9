// SPDX-License-Identifier: GPL-2.0
//! The check tables of the TDH.MEM leaves, row by row: what is wrong, and the
//! status (with operand and extended information) it must give.

mod common;

use common::*;
use tdx_emu_model::locks::{Mode, Side};
use tdx_emu_model::pseudo::LockObj;
use tdx_emu_model::regs::{leaf, leaf_name, op};
use tdx_emu_model::sept::{self, State};
use tdx_emu_model::status::*;
use tdx_emu_model::Regs;

const NONE: u64 = u64::MAX;
const T4K: u64 = POOL + 0x8000;
const BLOCKED_2M: u64 = LARGE;

/// A leaf with a call that succeeds in the world `world` makes.
struct Good {
    leaf: u16,
    regs: Regs,
    /// Needs the TDR exclusively and no other lock.
    exclusive: bool,
    world: fn() -> Vm,
}

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

fn promotable() -> Vm {
    let vm = ready();
    let r = demote_regs();
    vm.ok(0, r);
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

fn good() -> Vec<Good> {
    let g = |leaf, regs, world: fn() -> Vm| Good {
        leaf,
        regs,
        exclusive: false,
        world,
    };
    let mut v = vec![
        g(
            leaf::MEM_PAGE_RELOCATE,
            Regs::call3(5, 0x2000, TDR, T4K),
            ready,
        ),
        g(leaf::MEM_RANGE_BLOCK, Regs::call(7, 0x1000, TDR), ready),
        g(leaf::MEM_RANGE_UNBLOCK, Regs::call(39, 0x2000, TDR), ready),
        g(leaf::MEM_PAGE_AUG, Regs::call3(6, 0x9000, TDR, T4K), ready),
        g(leaf::MEM_PAGE_REMOVE, Regs::call(29, 0x2000, TDR), ready),
        g(leaf::MEM_PAGE_DEMOTE, demote_regs(), ready),
        g(
            leaf::MEM_PAGE_PROMOTE,
            Regs::call(23, 0x20_0001, TDR),
            promotable,
        ),
        g(
            leaf::MEM_SEPT_ADD,
            Regs::call3(3, 0x80_0001, TDR, T4K),
            ready,
        ),
        g(leaf::MEM_SEPT_REMOVE, Regs::call(30, 0x60_0001, TDR), ready),
        g(leaf::MEM_SEPT_RD, Regs::call(25, 0x1000, TDR), ready),
        g(leaf::MEM_RD, Regs::call(12, 0x1008, TDR), ready),
        g(leaf::MEM_WR, Regs::call3(14, 0x1008, TDR, 9), ready),
    ];
    for (leaf, regs) in [
        (
            leaf::MEM_PAGE_ADD,
            Regs {
                r9: SOURCE,
                ..Regs::call3(2, 0x9000, TDR, T4K)
            },
        ),
        (leaf::MR_EXTEND, Regs::call(16, 0x1100, TDR)),
    ] {
        v.push(Good {
            leaf,
            regs,
            exclusive: true,
            world: Vm::building,
        });
    }
    v
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

#[test]
fn good_calls_succeed() {
    for g in good() {
        let vm = (g.world)();
        let r = vm.call(0, g.regs);
        assert_eq!(r.rax, 0, "{:?}: {r:x?}", leaf_name(g.leaf));
    }
}

/// MEMPRE 1: the TDR operand.
#[test]
fn tdr_operand() {
    for g in good() {
        let base = (g.world)();
        let bad_type = with_op(PAGE_METADATA_INCORRECT, op::RDX);
        let flags = matches!(
            g.leaf,
            leaf::MEM_PAGE_DEMOTE | leaf::MEM_SEPT_ADD | leaf::MEM_SEPT_RD
        );
        for (what, rdx, want) in [
            ("misaligned", TDR + 8, invalid(op::RDX)),
            ("KeyID bits", TDR | 33 << 46, invalid(op::RDX)),
            ("above MAXPA", TDR | 1 << 52, invalid(op::RDX)),
            (
                "outside",
                OUTSIDE,
                with_op(OPERAND_ADDR_RANGE_ERROR, op::RDX),
            ),
            (
                "not initialized",
                UNINIT,
                with_op(OPERAND_ADDR_RANGE_ERROR, op::RDX),
            ),
            ("reserved", RESERVED, bad_type),
            ("free", T4K, bad_type),
            ("TDCX", TDCX, bad_type),
            ("TDVPR", VCPU, bad_type),
        ] {
            let mut regs = g.regs;
            regs.rdx = rdx;
            let r = check(what, &base, regs, want);
            assert_eq!((r.rcx, r.rdx), (0, 0), "{what}");
        }
        if !flags {
            let mut regs = g.regs;
            regs.rdx = TDR | 1;
            check("bit 0", &base, regs, invalid(op::RDX));
        }
    }
}

/// MEMPRE 2: state of the TD.
#[test]
fn td_state() {
    for g in good() {
        let base = (g.world)();
        let lock = |vm: &Vm, obj, mode| vm.m.lock(obj, mode, Side::Host).unwrap();

        let vm = base.fork();
        let tdr_page = LockObj::Pamt { hpa: TDR, level: 0 };
        lock(&vm, tdr_page, Mode::Exclusive);
        check("TDR locked", &vm, g.regs, busy(op::RDX));

        let vm = base.fork();
        lock(&vm, tdr_page, Mode::Shared);
        let want = if g.exclusive { busy(op::RDX) } else { 0 };
        let r = vm.call(0, g.regs);
        assert_eq!(r.rax, want, "{:?} with the TDR shared", leaf_name(g.leaf));

        let vm = base.fork();
        vm.m.set_fatal(TDR, 1);
        check("fatal", &vm, g.regs, TD_FATAL);

        let vm = base.fork();
        let other = TDMR + 0x10_0000;
        vm.ok(0, Regs::call(leaf::MNG_CREATE, other, 40));
        let mut regs = g.regs;
        regs.rdx = other;
        check("no keys", &vm, regs, TD_KEYS_NOT_CONFIGURED);
        vm.ok(0, Regs::call(leaf::MNG_KEY_CONFIG, other, 0));
        check("no TDCS", &vm, regs, TDCS_NOT_ALLOCATED);
        for i in 1..7 {
            vm.ok(0, Regs::call(leaf::MNG_ADDCX, other + 0x1000 * i, other));
        }
        check("uninitialized", &vm, regs, OP_STATE_INCORRECT);

        if !g.exclusive {
            let vm = base.fork();
            lock(&vm, LockObj::OpState { tdr: TDR }, Mode::Exclusive);
            check("op state locked", &vm, g.regs, busy(op::OP_STATE));
        }
        for state in 0..=10 {
            if tdx_emu_model::opstate::allowed(g.leaf, state) {
                continue;
            }
            let vm = base.fork();
            vm.m.set_op_state(TDR, state);
            check("op state", &vm, g.regs, OP_STATE_INCORRECT);
        }
    }
}

/// MEMPRE 3 and 4: the GPA operand.
#[test]
fn gpa_operand() {
    for g in good() {
        let vm = (g.world)();
        let word = matches!(g.leaf, leaf::MEM_RD | leaf::MEM_WR | leaf::MR_EXTEND);
        for (what, rcx) in [
            ("bit 3", 1 << 3),
            ("bit 11", 1 << 11),
            ("bit 52", 1 << 52),
            ("bit 63", 1 << 63),
            ("shared", 1 << 47),
            ("above the width", 1 << 48),
        ] {
            if word && rcx < 1 << 12 {
                continue;
            }
            let mut regs = g.regs;
            regs.rcx |= rcx;
            let r = check(what, &vm, regs, invalid(op::RCX));
            assert_eq!((r.rcx, r.rdx), (0, 0));
        }
        let max = match g.leaf {
            leaf::MEM_PAGE_RELOCATE | leaf::MEM_PAGE_ADD => 0,
            leaf::MEM_PAGE_AUG => 1,
            leaf::MEM_PAGE_REMOVE | leaf::MEM_PAGE_DEMOTE | leaf::MEM_PAGE_PROMOTE => 2,
            _ => 3,
        };
        for level in max + 1..8 {
            if word {
                break;
            }
            let mut regs = g.regs;
            regs.rcx = level;
            check("level", &vm, regs, invalid(op::RCX));
        }
        if word {
            let mut regs = g.regs;
            regs.rcx |= 4;
            check("alignment", &vm, regs, invalid(op::RCX));
        } else if max > 0 {
            let mut regs = g.regs;
            regs.rcx = 0x1001;
            check("alignment", &vm, regs, invalid(op::RCX));
        }
    }
}

/// MEMPRE 5 to 7: tree lock, walk, entry lock.
#[test]
fn tree_walk_and_entry() {
    for g in good() {
        if g.exclusive {
            continue;
        }
        let base = (g.world)();
        let tree = LockObj::SeptTree { tdr: TDR };
        let vm = base.fork();
        vm.m.lock(tree, Mode::Exclusive, Side::Host).unwrap();
        check("tree exclusive", &vm, g.regs, busy(op::SEPT_TREE));

        let vm = base.fork();
        vm.m.lock(tree, Mode::Shared, Side::Host).unwrap();
        let takes_ex = matches!(
            g.leaf,
            leaf::MEM_RANGE_BLOCK | leaf::MEM_RANGE_UNBLOCK | leaf::MEM_SEPT_REMOVE
        );
        let want = if takes_ex { busy(op::SEPT_TREE) } else { 0 };
        assert_eq!(vm.call(0, g.regs).rax, want, "{:?}", leaf_name(g.leaf));

        let debug = matches!(g.leaf, leaf::MEM_RD | leaf::MEM_WR);
        let failed = if debug {
            EPT_ENTRY_NOT_PRESENT
        } else {
            EPT_WALK_FAILED
        };
        let mut regs = g.regs;
        regs.rcx = 0x8_0000_0000 | (regs.rcx & 7);
        // The top entry of that GPA has no table.
        let level = (regs.rcx & 7) as u8;
        if level < 2 {
            let r = check("no table", &base, regs, with_op(failed, op::RCX));
            assert_eq!((r.rcx, r.rdx), (1 << 63, 2));
        }
        let vm = base.fork();
        let (gpa, level) = (
            g.regs.rcx & !0xFFF,
            if debug { 0 } else { (g.regs.rcx & 7) as u8 },
        );
        let entry = LockObj::SeptEntry {
            tdr: TDR,
            gpa,
            level,
        };
        let (raw, _) = vm.m.sept_view(TDR, gpa, level);
        vm.m.lock(entry, Mode::Exclusive, Side::Guest).unwrap();
        let r = check("entry locked", &vm, g.regs, busy(op::RCX));
        assert_eq!((r.rcx, r.rdx), sept::arch_view(raw, level));
        let (raw, _) = vm.m.sept_view(TDR, gpa, level);
        assert_ne!(raw & sept::TDHP, 0, "host priority is left behind");
    }
}

/// MEMPRE 8: every state of the entry, for every leaf.
#[test]
fn entry_states() {
    for g in good() {
        let base = (g.world)();
        let word = matches!(g.leaf, leaf::MEM_RD | leaf::MEM_WR | leaf::MR_EXTEND);
        let level = if word { 0 } else { (g.regs.rcx & 7) as u8 };
        let gpa = g.regs.rcx & !0xFFF;
        for (st, _, _) in sept::STATES {
            if sept::allowed(g.leaf, st) || g.leaf == leaf::MEM_SEPT_RD {
                continue;
            }
            if level == 0 && matches!(st, State::NlMapped | State::NlBlocked) {
                continue;
            }
            let vm = base.fork();
            let perms = if st.guest_accessible() {
                sept::R | sept::X
            } else {
                0
            };
            let hpa = if level == 0 {
                POOL + 0x2000
            } else {
                BLOCKED_2M
            };
            let raw = match st {
                State::Free => sept::INIT,
                State::Removed => sept::removed_entry(true),
                State::NlMapped => sept::table_entry(SEPT + 0x8000),
                State::NlBlocked => sept::blocked(sept::table_entry(SEPT + 0x8000), level),
                _ => sept::leaf_entry(st, perms, hpa),
            };
            assert!(vm.m.poke_sept(TDR, gpa, level, raw));
            let not_leaf = raw & sept::PS == 0 || raw & sept::RWX == 0;
            let want = match g.leaf {
                leaf::MEM_RANGE_BLOCK if st.any_blocked() => {
                    with_op(GPA_RANGE_ALREADY_BLOCKED, op::RCX)
                }
                leaf::MR_EXTEND if !not_leaf => EPT_ENTRY_NOT_PRESENT,
                _ if word && not_leaf => with_op(EPT_ENTRY_NOT_PRESENT, op::RCX),
                _ => with_op(EPT_ENTRY_STATE_INCORRECT, op::RCX),
            };
            let r = check(&format!("{st:?}"), &vm, g.regs, want);
            if want & 0xFF != 0 {
                assert_eq!((r.rcx, r.rdx), sept::arch_view(raw, level), "{st:?}");
            }
            assert_eq!(vm.m.sept_view(TDR, gpa, level).0, raw, "{st:?} was changed");
        }
    }
}

/// TRKCHK: not blocked, not tracked, tracked.
#[test]
fn tracking() {
    for (leaf_no, gpa, regs) in [
        (5, 0x1000, Regs::call3(5, 0x1000, TDR, T4K)),
        (29, 0x1000, Regs::call(29, 0x1000, TDR)),
        (39, 0x1000, Regs::call(39, 0x1000, TDR)),
        (30, 0x80_0001, Regs::call(30, 0x80_0001, TDR)),
    ] {
        let vm = ready();
        vm.ok(
            0,
            Regs::call3(leaf::MEM_SEPT_ADD, 0x80_0001, TDR, SEPT + 0xA000),
        );
        if leaf_no != 39 {
            let r = check(
                "not blocked",
                &vm,
                regs,
                with_op(GPA_RANGE_NOT_BLOCKED, op::RCX),
            );
            assert_eq!(r.rdx & 7, gpa & 7);
            assert_ne!(r.rcx, 0);
        }
        vm.block(gpa);
        let not_done = with_op(TLB_TRACKING_NOT_DONE, op::RCX);
        let r = check("no TRACK", &vm, regs, not_done);
        assert_eq!((r.rcx, r.rdx), (0, 0));
        vm.enter(0);
        vm.track();
        check("vCPU of the old epoch inside", &vm, regs, not_done);
        vm.enter(1);
        check("also with one of the new", &vm, regs, not_done);
        vm.exit(0);
        assert_eq!(vm.call(0, regs).rax, 0);
    }
}

/// Explicit page operands: R8 of RELOCATE, AUG, ADD, DEMOTE, SEPT.ADD.
#[test]
fn target_page() {
    for g in good() {
        let ops = [
            leaf::MEM_PAGE_RELOCATE,
            leaf::MEM_PAGE_AUG,
            leaf::MEM_PAGE_ADD,
            leaf::MEM_PAGE_DEMOTE,
            leaf::MEM_SEPT_ADD,
        ];
        if !ops.contains(&g.leaf) {
            continue;
        }
        let base = (g.world)();
        let kind = with_op(PAGE_METADATA_INCORRECT, R8);
        let range = with_op(OPERAND_ADDR_RANGE_ERROR, R8);
        let mut rows = vec![
            ("misaligned", T4K + 0x800, invalid(R8)),
            ("KeyID bits", T4K | 33 << 46, invalid(R8)),
            ("above MAXPA", T4K | 1 << 52, invalid(R8)),
            ("outside", OUTSIDE, range),
            ("not initialized", UNINIT, range),
            ("reserved", RESERVED, kind),
            ("TDR", TDR, busy(R8)),
            ("TDCX", TDCX, kind),
            ("TDVPR", VCPU, kind),
            ("S-EPT page", SEPT + 0x1000, kind),
            ("TD page", POOL, kind),
        ];
        if !g.exclusive {
            rows.push(("inside a large TD page", BLOCKED_2M + 0x3000, kind));
        }
        for (what, r8, want) in rows {
            let mut regs = g.regs;
            regs.r8 = r8;
            check(what, &base, regs, want);
        }
        for (level, mode, want) in [
            (0, Mode::Exclusive, busy(R8)),
            (0, Mode::Shared, busy(R8)),
            (1, Mode::Exclusive, busy(R8)),
            (1, Mode::Shared, 0),
        ] {
            let vm = base.fork();
            let obj = LockObj::Pamt {
                hpa: g.regs.r8,
                level,
            };
            // An enclosing entry of the TDR's own region answers for RDX.
            if level == 1 && g.regs.r8 >> 21 == TDR >> 21 {
                continue;
            }
            vm.m.lock(obj, mode, Side::Host).unwrap();
            let r = vm.call(0, g.regs);
            assert_eq!(r.rax, want, "{:?} {level} {mode:?}", leaf_name(g.leaf));
        }
    }
}
