// SPDX-License-Identifier: GPL-2.0
//! Moves during which calls fail: every status the model knows, at every leaf.

use proptest::prelude::*;
use tdx_emu_model::fault::{Action, Rule, When};
use tdx_emu_model::regs::{leaf, leaf_name, op};
use tdx_emu_model::status::{self, with_op};

use crate::host::common::Vm;
use crate::host::{check_content, entry, scribble, Host, VCPUS};
use crate::protocol::{Outcome, TdLost};
use crate::status::{Answer, Verdict};

/// The leaves that a move is made of.
const LEAVES: [u16; 5] = [
    leaf::MEM_RANGE_BLOCK,
    leaf::MEM_TRACK,
    leaf::MEM_PAGE_RELOCATE,
    leaf::MEM_RANGE_UNBLOCK,
    leaf::PHYMEM_PAGE_WBINVD,
];
const OPERANDS: [u32; 3] = [0, op::RCX, op::SEPT_TREE];
const MOVES: [(u64, u64, u64); 3] = [(0x1000, 1, 8), (0x2000, 2, 9), (0x3000, 3, 10)];

/// What must hold whatever has failed. Says whether the TD lives.
fn judge(vm: &Vm, outcomes: &[Outcome], result: Result<(), TdLost>, what: &str) -> bool {
    for ((gpa, from, to), outcome) in MOVES.into_iter().zip(outcomes) {
        let (frame, state) = entry(vm, gpa);
        match outcome {
            // The old page is the host's, and the TD must not notice what it does there.
            Outcome::Moved => {
                assert_eq!(frame, to, "{what}: {gpa:#x}");
                scribble(vm, from);
            }
            // The old page is not touched.
            Outcome::MovedUnclean => assert_eq!(frame, to, "{what}: {gpa:#x}"),
            Outcome::MovedElse => assert_eq!(result, Err(TdLost::Broken), "{what}: {gpa:#x}"),
            Outcome::Stuck => {
                assert_eq!(frame, from, "{what}: {gpa:#x}");
                assert!(result.is_err(), "{what}: a page is stuck in a TD that runs");
                scribble(vm, to);
            }
            // The new page is the host's, and nothing has become of the old one.
            Outcome::Contended | Outcome::Refused => {
                assert_eq!(frame, from, "{what}: {gpa:#x}");
                assert_eq!(state, 4, "{what}: {gpa:#x} is not said to be stuck");
                scribble(vm, to);
            }
        }
        if result.is_ok() {
            assert_eq!(state, 4, "{what}: {gpa:#x} is left in another state");
        }
    }
    assert_eq!(vm.m.violation(), None, "{what}");
    vm.m.faults.clear();
    if result.is_ok() {
        for (gpa, ..) in MOVES {
            check_content(vm, gpa);
        }
    }
    result.is_ok()
}

fn rule(leaf: u16, when: When, status: u64) -> Rule {
    Rule {
        leaf,
        when,
        action: Action::Status(status),
    }
}

/// UNBLOCK is called only when RELOCATE fails.
fn reach(vm: &Vm, leaf: u16) {
    if leaf == leaf::MEM_RANGE_UNBLOCK {
        let refuse = with_op(status::PAGE_METADATA_INCORRECT, op::R8);
        vm.m.faults
            .add(rule(leaf::MEM_PAGE_RELOCATE, When::Nth(1), refuse));
    }
}

#[test]
fn every_status_once_at_every_leaf() {
    let base = Vm::running();
    let mut lost = 0;
    for leaf in LEAVES {
        for code in status::ALL.iter().filter(|code| **code != status::SUCCESS) {
            for (nth, operand) in (1..=3).zip(OPERANDS) {
                let vm = base.fork();
                for lp in VCPUS {
                    assert!(Host::enter(&vm, lp));
                }
                reach(&vm, leaf);
                let status = with_op(*code, operand);
                vm.m.faults.add(rule(leaf, When::Nth(nth), status));
                let host = Host::new(&vm, &MOVES);
                let (outcomes, result) = host.run(true);
                let what = format!("{status:#x} at call {nth} of {:?}", leaf_name(leaf));
                if !judge(&vm, &outcomes, result, &what) {
                    lost += 1;
                }
            }
        }
    }
    assert!(lost > 0, "TD_FATAL and the like have not been noticed");
}

#[test]
fn contention_that_passes_does_not_show() {
    let base = Vm::running();
    let busy = [
        with_op(status::OPERAND_BUSY, op::SEPT_TREE),
        with_op(status::OPERAND_BUSY, op::RCX),
        status::PREVIOUS_TLB_EPOCH_BUSY,
        status::SYS_BUSY,
        status::RND_NO_ENTROPY,
    ];
    for leaf in LEAVES {
        for status in busy {
            let vm = base.fork();
            assert!(Host::enter(&vm, VCPUS[0]));
            reach(&vm, leaf);
            for nth in 1..=8 {
                vm.m.faults.add(rule(leaf, When::Nth(nth), status));
            }
            let host = Host::new(&vm, &MOVES);
            let (outcomes, result) = host.run(true);
            assert_eq!(result, Ok(()));
            let moved = outcomes.iter().filter(|o| **o == Outcome::Moved).count();
            let refused = usize::from(leaf == leaf::MEM_RANGE_UNBLOCK);
            assert_eq!(moved, 3 - refused, "{status:#x} at {:?}", leaf_name(leaf));
            assert_eq!(host.count("hold"), 1, "vCPUs are held after a few tries");
            judge(&vm, &outcomes, result, "contention");
        }
    }
}

#[test]
fn contention_without_end_ends() {
    let base = Vm::running();
    for leaf in LEAVES {
        let vm = base.fork();
        reach(&vm, leaf);
        let status = with_op(status::OPERAND_BUSY, op::RCX);
        vm.m.faults.add(rule(leaf, When::Every(1), status));
        let host = Host::new(&vm, &MOVES);
        let (outcomes, result) = host.run(true);
        let what = format!("{:?}", leaf_name(leaf));
        // vCPUs stand still for as long as these calls take, a microsecond or so each.
        let most = match leaf {
            leaf::MEM_TRACK | leaf::MEM_RANGE_UNBLOCK => 100,
            _ => 32,
        };
        let calls = host.calls_while_held();
        assert!(calls <= most, "{what}: {calls} calls with vCPUs held");
        match leaf {
            leaf::MEM_RANGE_BLOCK | leaf::MEM_PAGE_RELOCATE => {
                assert_eq!(outcomes, [Outcome::Contended; 3], "{what}");
                assert_eq!(result, Ok(()), "{what}");
            }
            leaf::PHYMEM_PAGE_WBINVD => {
                assert_eq!(outcomes, [Outcome::MovedUnclean; 3], "{what}");
                assert_eq!(result, Ok(()), "{what}");
            }
            // A page that stays blocked cannot be used.
            _ => assert_eq!(result, Err(TdLost::Dead), "{what}"),
        }
        judge(&vm, &outcomes, result, &what);
    }
}

/// The module says that a page is not blocked, which it is, and will not block it.
#[test]
fn a_page_said_not_to_be_blocked_is_given_back() {
    let vm = Vm::running().fork();
    let not_blocked = with_op(status::GPA_RANGE_NOT_BLOCKED, 0);
    let refuse = with_op(status::OPERAND_INVALID, op::RCX);
    vm.m.faults
        .add(rule(leaf::MEM_PAGE_RELOCATE, When::Nth(3), not_blocked));
    vm.m.faults
        .add(rule(leaf::MEM_RANGE_BLOCK, When::Nth(4), refuse));
    let host = Host::new(&vm, &MOVES);
    let (outcomes, result) = host.run(true);
    let moved = Outcome::Moved;
    assert_eq!(outcomes, [moved, moved, Outcome::Refused]);
    assert_eq!(host.count("TDH.MEM.RANGE.UNBLOCK"), 1);
    judge(&vm, &outcomes, result, "not blocked");
}

/// What the kernel's SEAMCALL code gives where no module has answered: CF was
/// set, or the instruction raised #UD or #GP.
const NO_MODULE: [u64; 3] = [
    0x8000_ff00_ffff_0000,
    0x8000_ff00_0000_0006,
    0x8000_ff00_0000_000d,
];

#[test]
fn no_module_is_a_lost_td() {
    for status in NO_MODULE {
        let (rcx, rdx) = (0, 0);
        let answer = Answer { status, rcx, rdx };
        assert_eq!(answer.verdict(), Verdict::Lost, "{status:#x}");
    }
}

#[test]
fn a_module_that_disappears_takes_the_td_down() {
    let base = Vm::running();
    for status in NO_MODULE {
        for leaf in LEAVES {
            for nth in 1..=3 {
                if leaf == leaf::MEM_TRACK && nth > 1 {
                    continue; // There is one.
                }
                let vm = base.fork();
                assert!(Host::enter(&vm, VCPUS[0]));
                if leaf == leaf::MEM_RANGE_UNBLOCK {
                    let refuse = with_op(status::PAGE_METADATA_INCORRECT, op::R8);
                    vm.m.faults
                        .add(rule(leaf::MEM_PAGE_RELOCATE, When::Every(1), refuse));
                }
                let mut host = Host::new(&vm, &MOVES);
                host.gone = Some((leaf, nth, status));
                let (outcomes, result) = host.run(true);
                let what = format!("{status:#x} from call {nth} of {:?}", leaf_name(leaf));
                assert_eq!(result, Err(TdLost::Dead), "{what}");
                for name in LEAVES.map(|leaf| leaf_name(leaf).unwrap()) {
                    assert!(host.count(name) <= 3, "{what}: {name} again and again");
                }
                assert_eq!(host.count("hold"), 0, "{what}: nobody is in the way");
                // Only what was done before the module went is done.
                let moved = outcomes.iter().filter(|o| **o == Outcome::Moved).count();
                let clean = if leaf == leaf::PHYMEM_PAGE_WBINVD {
                    nth - 1
                } else {
                    0
                };
                assert_eq!(moved, clean, "{what}");
                judge(&vm, &outcomes, result, &what);
            }
        }
    }
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let when = prop_oneof![
        (1u32..12).prop_map(When::Nth),
        (2u32..5).prop_map(When::Every),
        (1u16..=0x8000).prop_map(When::Random),
    ];
    (
        prop::sample::select(&LEAVES[..]),
        when,
        prop::sample::select(&status::ALL[1..]),
        prop::sample::select(&OPERANDS[..]),
    )
        .prop_map(|(leaf, when, code, operand)| rule(leaf, when, with_op(code, operand)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Any combination of failures leaves pages where the outcomes say.
    #[test]
    fn failures_of_any_kind_lose_nothing(
        rules in prop::collection::vec(a_rule(), 1..5),
        seed in any::<u64>(),
        inside in 0usize..3,
        eager in any::<bool>(),
    ) {
        static BASE: std::sync::OnceLock<Vm> = std::sync::OnceLock::new();
        let vm = BASE.get_or_init(Vm::running).fork();
        for lp in &VCPUS[..inside] {
            assert!(Host::enter(&vm, *lp));
        }
        vm.m.faults.seed(seed);
        for rule in &rules {
            vm.m.faults.add(*rule);
        }
        let mut host = Host::new(&vm, &MOVES);
        host.eager = eager;
        let (outcomes, result) = host.run(true);
        judge(&vm, &outcomes, result, &format!("{rules:x?}"));
    }
}
