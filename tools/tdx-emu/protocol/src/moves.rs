// SPDX-License-Identifier: GPL-2.0
//! Moves that nothing gets in the way of.

use tdx_emu_model::regs::leaf;
use tdx_emu_model::{GuestEvent, GuestOutcome, Regs};

use crate::host::common::{Vm, TDR};
use crate::host::{check_content, entry, scribble, Host, VCPUS};
use crate::protocol::{Outcome, TdLost};

const MAPPED: u64 = 4;
const PENDING: u64 = 2;

#[test]
fn a_batch_costs_three_calls_a_page_one_track_and_one_kick() {
    let vm = Vm::running();
    for lp in VCPUS {
        assert!(Host::enter(&vm, lp));
    }
    let host = Host::new(&vm, &[(0, 0, 8), (0x1000, 1, 9), (0x2000, 2, 10)]);
    let (outcomes, result) = host.run(true);
    assert_eq!(result, Ok(()));
    assert_eq!(outcomes, [Outcome::Moved; 3]);
    assert_eq!(host.count("TDH.MEM.RANGE.BLOCK"), 3);
    assert_eq!(host.count("TDH.MEM.TRACK"), 1);
    assert_eq!(host.count("kick"), 1);
    assert_eq!(host.count("TDH.MEM.PAGE.RELOCATE"), 3);
    assert_eq!(host.count("TDH.PHYMEM.PAGE.WBINVD"), 3);
    assert_eq!(host.log.borrow().len(), 11, "and nothing else");
    for page in 0..3 {
        assert_eq!(entry(&vm, page * 0x1000), (8 + page, MAPPED));
        scribble(&vm, page);
        check_content(&vm, page * 0x1000);
    }
}

#[test]
fn before_finalize_a_move_is_relocate_and_wbinvd() {
    let vm = Vm::building();
    let host = Host::new(&vm, &[(0, 0, 8), (0x4000, 4, 9)]);
    let (outcomes, result) = host.run(false);
    assert_eq!(result, Ok(()));
    assert_eq!(outcomes, [Outcome::Moved; 2]);
    assert_eq!(host.log.borrow().len(), 4);
    assert_eq!(entry(&vm, 0), (8, MAPPED));
    assert_eq!(entry(&vm, 0x4000), (9, PENDING));
    vm.ok(0, Regs::call(leaf::MR_FINALIZE, TDR, 0));
    check_content(&vm, 0);
}

#[test]
fn a_pending_page_moves_and_is_accepted_afterwards() {
    let vm = Vm::running();
    let host = Host::new(&vm, &[(0x5000, 5, 11)]);
    assert_eq!(host.run(true), (vec![Outcome::Moved], Ok(())));
    assert_eq!(entry(&vm, 0x5000), (11, PENDING));
    vm.enter(0);
    assert_eq!(vm.accept(0, 0x5000), GuestOutcome::InGuest(0));
    let read = GuestEvent::Read { gpa: 0x5008 };
    assert_eq!(vm.m.guest_event(VCPUS[0], read), GuestOutcome::InGuest(0));
}

#[test]
fn a_page_that_is_not_mapped_is_refused_and_the_others_move() {
    let vm = Vm::running();
    let host = Host::new(&vm, &[(0x1000, 1, 8), (0x9000, 3, 9), (0x2000, 2, 10)]);
    let (outcomes, result) = host.run(true);
    assert_eq!(result, Ok(()));
    assert_eq!(outcomes, [Outcome::Moved, Outcome::Refused, Outcome::Moved]);
}

#[test]
fn a_target_that_the_module_refuses_leaves_the_page_where_it_was() {
    let vm = Vm::running();
    // Frame 2 is the TD's own; 1 is where the page is already.
    for target in [2, 1] {
        let host = Host::new(&vm, &[(0x1000, 1, target)]);
        assert_eq!(host.run(true), (vec![Outcome::Refused], Ok(())));
        assert_eq!(host.count("TDH.MEM.RANGE.UNBLOCK"), 1);
        assert_eq!(entry(&vm, 0x1000), (1, MAPPED));
        check_content(&vm, 0x1000);
    }
}

#[test]
fn a_frame_that_is_not_the_folio_is_never_used_again() {
    let vm = Vm::running();
    // The caller is wrong about where the page is.
    let host = Host::new(&vm, &[(0x1000, 3, 8)]);
    let (outcomes, result) = host.run(true);
    assert_eq!(outcomes, [Outcome::MovedElse]);
    assert_eq!(result, Err(TdLost::Broken));
    assert_eq!(host.count("TDH.PHYMEM.PAGE.WBINVD"), 0);
}

#[test]
fn a_page_that_somebody_else_has_blocked_moves() {
    let vm = Vm::running();
    vm.block(0x1000);
    let host = Host::new(&vm, &[(0x1000, 1, 8)]);
    assert_eq!(host.run(true), (vec![Outcome::Moved], Ok(())));
    check_content(&vm, 0x1000);
}

#[test]
fn an_unfinished_track_of_somebody_else_is_finished() {
    let vm = Vm::running();
    vm.enter(0);
    vm.track();
    // vCPU 0 is in the epoch before: the next TRACK fails until it has left.
    let host = Host::new(&vm, &[(0x1000, 1, 8)]);
    assert_eq!(host.run(true), (vec![Outcome::Moved], Ok(())));
    assert_eq!(host.count("hold"), 1);
    check_content(&vm, 0x1000);
}

#[test]
fn moves_back_and_forth_keep_the_content() {
    let vm = Vm::running();
    for round in 0..20 {
        let (from, to) = if round % 2 == 0 { (0, 8) } else { (8, 0) };
        let moves: Vec<_> = (0..4).map(|i| (i * 0x1000, from + i, to + i)).collect();
        let host = Host::new(&vm, &moves);
        assert_eq!(host.run(true), (vec![Outcome::Moved; 4], Ok(())));
        for i in 0..4 {
            scribble(&vm, from + i);
            check_content(&vm, i * 0x1000);
        }
    }
    assert_eq!(vm.m.violation(), None);
}
