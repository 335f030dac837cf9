// SPDX-License-Identifier: GPL-2.0
//! The built-in guest.

mod common;

use common::*;
use tdx_emu_model::program::{command, result, word, Work, NO_GPA, VMCALL, VMCALL_MASK};
use tdx_emu_model::regs::{leaf, op};
use tdx_emu_model::sept;
use tdx_emu_model::status::*;
use tdx_emu_model::{GuestEvent, GuestOutcome, PhysMem, Regs};

const GPA: u64 = 0x4000;

fn host(command: u64, gpa: u64, pages: u64, arg: u64) -> Regs {
    Regs {
        r12: command,
        r13: gpa,
        r14: pages,
        r15: arg,
        ..Regs::default()
    }
}

/// Enters vCPU 0, whose program stops after `steps` pages.
fn run_for(vm: &Vm, entry: Regs, steps: usize) -> (Regs, Work) {
    vm.enter(0);
    let mut left = steps;
    let (out, work) = vm.m.run_program(1, &entry, || {
        left = left.saturating_sub(1);
        left == 0
    });
    let GuestOutcome::Exit(regs) = out else {
        panic!("{out:?}");
    };
    assert_eq!(vm.m.in_guest(1), None);
    (regs, work)
}

fn run(vm: &Vm, entry: Regs) -> Regs {
    run_for(vm, entry, 10_000).0
}

/// A TD whose program waits for its first command.
fn waiting() -> Vm {
    let vm = Vm::running();
    let r = run(&vm, host(command::FILL, 0, 1, 1));
    assert_eq!(r, report(command::NONE, 0, 0, NO_GPA, result::OK));
    vm
}

fn report(command: u64, pages: u64, wrong: u64, first: u64, result: u64) -> Regs {
    Regs {
        rax: EXIT_REASON_TDCALL,
        rcx: VMCALL_MASK,
        r10: VMCALL,
        r11: command,
        r12: pages,
        r13: wrong,
        r14: first,
        r15: result,
        ..Regs::default()
    }
}

fn done(command: u64, pages: u64) -> Regs {
    report(command, pages, 0, NO_GPA, result::OK)
}

#[test]
fn accept_fill_verify_across_a_move() {
    let vm = waiting();
    let r = run(&vm, host(command::ACCEPT, GPA, 4, 0));
    assert_eq!(r, done(command::ACCEPT, 4));
    let r = run(&vm, host(command::FILL, GPA, 4, 77));
    assert_eq!(r, done(command::FILL, 4));
    assert_eq!(vm.debug_read(GPA + 0x1008), word(77, GPA + 0x1008));
    vm.block(GPA);
    vm.track();
    assert_eq!(vm.relocate(GPA, POOL + 0x8000).rax, SUCCESS);
    assert_eq!(
        run(&vm, host(command::VERIFY, GPA, 4, 77)),
        done(command::VERIFY, 4)
    );
    let r = run(&vm, host(command::VERIFY, GPA, 4, 78));
    assert_eq!(r, report(command::VERIFY, 4, 2048, GPA, result::OK));
    let r = run(&vm, host(command::ACCEPT, GPA, 2, 0));
    assert_eq!(r, report(command::ACCEPT, 2, 2, GPA, result::OK));
}

#[test]
fn interrupts_keep_the_progress() {
    let vm = waiting();
    let fill = host(command::FILL, 0, 4, 5);
    let (r, work) = run_for(&vm, fill, 3);
    assert_eq!((r.rax, r.rcx, r.r8), (EXIT_REASON_INTERRUPT, 0, 0));
    assert_eq!((work.command, work.pages), (command::FILL, 3));
    // What the host has in its registers now is not the guest's.
    let (r, work) = run_for(&vm, host(command::SPIN, 1, 2, 3), 10);
    assert_eq!((r, work.pages), (done(command::FILL, 4), 1));
    let spin = host(command::SPIN, 0, 0, 2);
    assert_eq!(run_for(&vm, spin, 1).0.rax, EXIT_REASON_INTERRUPT);
    assert_eq!(run_for(&vm, spin, 1).0.rax, EXIT_REASON_INTERRUPT);
    assert_eq!(run(&vm, spin), done(command::SPIN, 0));
}

#[test]
fn violations_exit_and_go_on() {
    let vm = waiting();
    vm.block(0x1000);
    vm.track();
    let fill = host(command::FILL, 0, 4, 9);
    let r = run(&vm, fill);
    assert_eq!(
        (r.rax, r.rcx, r.rdx, r.r8),
        (EXIT_REASON_EPT_VIOLATION, 2, 0, 0x1000)
    );
    let r = run(&vm, fill);
    assert_eq!((r.rax, r.r8), (EXIT_REASON_EPT_VIOLATION, 0x1000));
    vm.ok(0, Regs::call(leaf::MEM_RANGE_UNBLOCK, 0x1000, TDR));
    assert_eq!(run(&vm, fill), done(command::FILL, 4));
    // ACCEPT of a page that is not there.
    let r = run(&vm, host(command::ACCEPT, 0x8000, 1, 0));
    assert_eq!(
        (r.rax, r.rdx & 0xF, r.r8),
        (EXIT_REASON_EPT_VIOLATION, 1, 0x8000)
    );
    vm.ok(
        0,
        Regs::call3(leaf::MEM_PAGE_AUG, 0x8000, TDR, POOL + 0x9000),
    );
    assert_eq!(run(&vm, fill), done(command::ACCEPT, 1));
}

#[test]
fn a_blocked_page_is_reachable_until_the_exit() {
    let vm = waiting();
    vm.enter(0);
    let mut moved = None;
    let stamp = host(command::STAMP, 0, 1, 2);
    let (out, _) = vm.m.run_program(1, &stamp, || {
        // Between two passes: the translation is still there to be used.
        vm.block(0);
        vm.track();
        moved = Some(vm.relocate(0, POOL + 0x8000).rax);
        false
    });
    assert_eq!(moved, Some(with_op(TLB_TRACKING_NOT_DONE, op::RCX)));
    let GuestOutcome::Exit(r) = out else {
        panic!("{out:?}");
    };
    assert_eq!(r.rax, EXIT_REASON_EPT_VIOLATION);
    assert_eq!(vm.relocate(0, POOL + 0x8000).rax, SUCCESS);
    assert_eq!(run(&vm, stamp), done(command::STAMP, 2));
    assert_eq!(vm.debug_read(0), 2);
}

#[test]
fn stamps_find_a_lost_write() {
    let vm = waiting();
    let stamp = host(command::STAMP, 0, 2, 3);
    // One pass, then somebody puts an old copy back.
    assert_eq!(run_for(&vm, stamp, 2).0.rax, EXIT_REASON_INTERRUPT);
    vm.ok(
        0,
        Regs {
            r8: 0,
            r9: u64::MAX,
            ..Regs::call(leaf::MEM_WR, 0x1000, TDR)
        },
    );
    let r = run(&vm, stamp);
    assert_eq!(r, report(command::STAMP, 6, 1, 0x1000, result::OK));
    let touch = host(command::TOUCH, 0, 3, 2);
    assert_eq!(run(&vm, touch), done(command::TOUCH, 6));
}

#[test]
fn a_stray_write_ends_the_td() {
    let vm = waiting();
    run(&vm, host(command::FILL, 0, 2, 1));
    vm.m.machine.write(POOL + 0x1040, 1);
    let r = run(&vm, host(command::VERIFY, 0, 2, 1));
    assert_eq!(class(r.rax), NON_RECOVERABLE_TD_NON_ACCESSIBLE);
    assert!(vm.m.violation().is_some());
    let r = vm.call(1, Regs::call(leaf::VP_ENTER, VCPU, 0));
    assert_eq!(r.rax, TD_FATAL);
}

#[test]
fn refusals() {
    let vm = waiting();
    let bad = |r: Regs| assert_eq!(run(&vm, r), report(r.r12, 0, 0, NO_GPA, result::INVALID));
    bad(host(7, 0, 1, 0));
    bad(host(command::FILL, 8, 1, 0));
    bad(host(command::FILL, 0, u64::MAX, 0));
    bad(host(command::FILL, 1 << 47, 1, 0));
    bad(host(command::FILL, (1 << 47) - 0x1000, 2, 0));
    let no = Regs {
        r10: 1,
        ..host(command::FILL, 0, 1, 0)
    };
    assert_eq!(run(&vm, no), done(command::NONE, 0));
    assert_eq!(
        run(&vm, host(command::TOUCH, 0, 0, 0)),
        done(command::TOUCH, 0)
    );
    // Page 4 is pending.
    let r = run(&vm, host(command::TOUCH, GPA, 1, 1));
    assert_eq!(r.r15, result::VIRT_EXCEPTION);
    assert_eq!(vm.m.run_program(3, &no, || true).0, GuestOutcome::None);
}

#[test]
fn accept_waits_for_a_locked_entry() {
    let vm = waiting();
    let (raw, _) = vm.m.sept_view(TDR, GPA, 0);
    assert!(vm.m.poke_sept(TDR, GPA, 0, raw | sept::TDEL));
    let (r, work) = run_for(&vm, host(command::ACCEPT, GPA, 1, 0), 3);
    assert_eq!((r.rax, work.pages), (EXIT_REASON_INTERRUPT, 0));
    assert!(vm.m.poke_sept(TDR, GPA, 0, raw));
    assert_eq!(run(&vm, Regs::default()), done(command::ACCEPT, 1));
}

#[test]
fn vmcall_selects_registers() {
    let vm = Vm::running();
    vm.enter(0);
    let guest = Regs {
        rcx: 0xFFCC,
        rdx: 1,
        rbx: 2,
        rsi: 3,
        rdi: 4,
        r8: 5,
        r9: 6,
        r15: 7,
        ..Regs::default()
    };
    let call = |rcx| {
        let regs = Regs { rcx, ..guest };
        vm.m.guest_event(1, GuestEvent::VmCall { regs })
    };
    for bit in [0, 1, 4, 5, 32] {
        let want = with_op(OPERAND_INVALID, op::RCX);
        assert_eq!(call(1 << bit), GuestOutcome::InGuest(want));
    }
    let want = Regs {
        rax: EXIT_REASON_TDCALL,
        ..guest
    };
    assert_eq!(call(0xFFCC), GuestOutcome::Exit(want));
    vm.enter(0);
    let want = Regs {
        rax: EXIT_REASON_TDCALL,
        rcx: 1 << 9,
        r9: 6,
        ..Regs::default()
    };
    assert_eq!(call(1 << 9), GuestOutcome::Exit(want));
}

#[test]
fn reset_forgets() {
    let vm = Vm::running();
    vm.m.reset();
    let r = vm.call(0, Regs::call(leaf::MEM_TRACK, TDR, 0));
    assert_eq!(r.rax, SYS_NOT_READY);
    vm.ok(0, Regs::call(leaf::SYS_INIT, 0, 0));
    assert_eq!(vm.m.sys_view().state, 1);
    assert_eq!(vm.m.tdmr_view(0), None);
}
