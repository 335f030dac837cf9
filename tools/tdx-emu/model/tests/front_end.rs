// SPDX-License-Identifier: GPL-2.0
//! What a front end that executes guest instructions relies on: registers,
//! controls, TDCALL leaves, virtualization exceptions.

mod common;

use common::*;
use tdx_emu_model::regs::{leaf, op, tdcall};
use tdx_emu_model::status::*;
use tdx_emu_model::{CpuidState, GuestEvent, GuestOutcome, Outcome, PhysMem, Regs, VeInfo};

const LP: usize = 1;
const RIP: u64 = 0x1000;

fn enter(vm: &Vm, host: Regs) {
    let mut r = Regs { rcx: VCPU, ..host };
    assert_eq!(vm.m.seamcall(LP, &mut r), Outcome::Entered, "{r:x?}");
}

fn tdcall(vm: &Vm, regs: Regs) -> Regs {
    let o = vm.m.tdcall(LP, &regs, RIP);
    assert!(matches!(o, GuestOutcome::InGuest(_)), "{o:?}");
    let (regs, rip) = vm.m.guest_load(LP).unwrap();
    assert_eq!(rip, RIP + 4);
    regs
}

fn exit(o: GuestOutcome) -> Regs {
    match o {
        GuestOutcome::Exit(r) => r,
        o => panic!("{o:?}"),
    }
}

fn write_field(vm: &Vm, field: u64, data: u64, mask: u64) -> Regs {
    vm.call(
        LP,
        Regs {
            r9: mask,
            ..Regs::call3(leaf::VP_WR, VCPU, field, data)
        },
    )
}

#[test]
fn reset_state() {
    let vm = Vm::running();
    assert!(vm.m.guest_load(LP).is_none());
    enter(&vm, Regs::default());
    let (r, rip) = vm.m.guest_load(LP).unwrap();
    assert_eq!(rip, 0);
    let want = Regs {
        rbx: 48,
        rcx: 7,
        rdx: FMS.into(),
        r8: 7,
        ..Regs::default()
    };
    assert_eq!(r, want);
    let c = vm.m.vcpu_controls(LP).unwrap();
    assert_eq!((c.tdr, c.tdvpr, u64::from(c.hkid)), (TDR, VCPU, HKID));
    assert_eq!((c.shared_bit, c.index), (47, 0));
    assert_eq!(c.eptp, (TDCX + 0x3000) | 0x1E);
    assert_eq!(c.pages[5], VCPU + 0x5000);
    assert_eq!(c.posted_descriptor, 0);
}

#[test]
fn vmcall_exchanges_selected_registers() {
    let vm = Vm::running();
    enter(&vm, Regs::default());
    let guest = Regs::from_array(core::array::from_fn(|i| 0x100 + i as u64));
    let guest = Regs {
        rax: 0,
        rcx: 0xFC04,
        ..guest
    };
    let host = exit(vm.m.tdcall(LP, &guest, RIP));
    assert_eq!((host.rax, host.rcx), (EXIT_REASON_TDCALL, 0xFC04));
    assert_eq!((host.rdx, host.rbx, host.r9), (guest.rdx, 0, 0));
    assert_eq!((host.r10, host.r15), (guest.r10, guest.r15));
    let answer = Regs::from_array(core::array::from_fn(|i| 0x200 + i as u64));
    enter(&vm, Regs { rax: 0, ..answer });
    let (got, rip) = vm.m.guest_load(LP).unwrap();
    assert_eq!(rip, RIP + 4);
    let want = Regs {
        rdx: answer.rdx,
        r10: answer.r10,
        r11: answer.r11,
        r12: answer.r12,
        r13: answer.r13,
        r14: answer.r14,
        r15: answer.r15,
        ..guest
    };
    assert_eq!(got, want);
    // Any other exit leaves the guest's registers alone.
    vm.m.guest_save(LP, &guest, RIP, false);
    vm.exit(0);
    enter(&vm, Regs { rax: 0, ..answer });
    assert_eq!(vm.m.guest_load(LP).unwrap().0, guest);
    for mask in [1, 2, 1 << 4, 1 << 5, 1 << 32] {
        let regs = Regs {
            rax: 0,
            rcx: mask,
            ..guest
        };
        assert_eq!(tdcall(&vm, regs).rax, invalid(op::RCX), "{mask:#x}");
    }
}

#[test]
fn info_leaves() {
    let vm = Vm::running();
    enter(&vm, Regs::default());
    let r = tdcall(&vm, Regs::call(tdcall::VP_INFO, 9, 9));
    assert_eq!((r.rax, r.rcx, r.rdx, r.r9), (0, 48, 1, 0));
    assert_eq!((r.r10, r.r11), (1, 0));
    assert_eq!(r.r8 & 0xFFFF_FFFF, 2);
    for rax in [0xFFFF, 1 << 16, u64::MAX] {
        let regs = Regs {
            rax,
            ..Regs::default()
        };
        assert_eq!(tdcall(&vm, regs).rax, invalid(op::RAX), "{rax:#x}");
    }
    let set = |rcx| tdcall(&vm, Regs::call(tdcall::VP_CPUIDVE_SET, rcx, 0)).rax;
    assert_eq!(set(4), invalid(op::RCX));
    assert_eq!(set(1), 0);
    let cpuid = |supervisor| {
        let state = CpuidState {
            supervisor,
            ..CpuidState::default()
        };
        vm.m.guest_cpuid(LP, 0, 0, &state)
    };
    assert!(cpuid(true).is_none() && cpuid(false).is_some());
}

#[test]
fn exceptions_are_read_once() {
    let vm = Vm::running();
    enter(&vm, Regs::default());
    let get = || tdcall(&vm, Regs::call(tdcall::VP_VEINFO_GET, 0, 0));
    assert_eq!(get().rax, NO_VALID_VE_INFO);
    let info = VeInfo {
        reason: 12,
        qualification: 3,
        gla: 4,
        gpa: 5,
        instruction: 1,
    };
    assert!(vm.m.virt_exception(LP, &info));
    assert!(!vm.m.virt_exception(LP, &info), "not read yet");
    let r = get();
    assert_eq!((r.rax, r.rcx, r.rdx), (0, 12, 3));
    assert_eq!((r.r8, r.r9, r.r10), (4, 5, 1));
    assert_eq!(get().rax, NO_VALID_VE_INFO);
}

#[test]
fn unaccepted_page_raises_an_exception() {
    let vm = Vm::running();
    enter(&vm, Regs::default());
    let fault = GuestEvent::EptViolation {
        gpa: 0x4000,
        qual: 2,
        rip_adv: 0,
    };
    assert_eq!(
        vm.m.guest_event(LP, fault),
        GuestOutcome::VirtException(0x4000)
    );
    assert!(vm.m.virt_exception(LP, &VeInfo::default()));
}

#[test]
fn other_exits() {
    let vm = Vm::running();
    enter(&vm, Regs::default());
    let nmi = GuestEvent::Exit {
        reason: 0,
        qual: 0,
        intr_info: 0x8000_0202,
    };
    let r = exit(vm.m.guest_event(LP, nmi));
    assert_eq!((r.rax, r.r9), (0, 0x8000_0202));
    enter(&vm, Regs::default());
    let shutdown = GuestEvent::Exit {
        reason: 2,
        qual: 0,
        intr_info: 0,
    };
    let r = exit(vm.m.guest_event(LP, shutdown));
    assert_eq!(r.rax, NON_RECOVERABLE_VCPU | 2);
    let again = vm.call(LP, Regs::call(leaf::VP_ENTER, VCPU, 0));
    assert_eq!(again.rax, VCPU_STATE_INCORRECT);
}

#[test]
fn writable_fields() {
    let vm = Vm::running();
    let shared = 0x203C;
    assert_eq!(write_field(&vm, shared, 0x5000_0000, u64::MAX).r8, 0);
    assert_eq!(
        write_field(&vm, shared, 0x6000_0FFF, u64::MAX).r8,
        0x5000_0000
    );
    for (field, mask) in [(0x681E, u64::MAX), (0x4000, 1), (shared, 0xFFF)] {
        let r = write_field(&vm, field, 1, mask);
        assert_eq!(r.rax, METADATA_FIELD_NOT_WRITABLE, "{field:#x}");
    }
    write_field(&vm, 2, 0xF2, 0xFFFF);
    write_field(&vm, 0x2016, 0x1240, u64::MAX);
    write_field(&vm, 0x20u64 << 56 | 11, 1, 0xFF);
    enter(&vm, Regs::default());
    let c = vm.m.vcpu_controls(LP).unwrap();
    assert_eq!(c.shared_eptp, 0x6000_001E);
    assert_eq!((c.posted_vector, c.posted_descriptor), (0xF2, 0));
    assert!(vm.m.take_pending_nmi(LP));
    assert!(!vm.m.take_pending_nmi(LP));
    vm.exit(0);
    write_field(&vm, 0x4000, 0x80, 0x80);
    enter(&vm, Regs::default());
    assert_eq!(vm.m.vcpu_controls(LP).unwrap().posted_descriptor, 0x1240);
}

#[test]
fn interrupts_that_wait_are_visible() {
    let vm = Vm::running();
    let details = || {
        vm.call(
            LP,
            Regs::call(leaf::VP_RD, VCPU, 1u64 << 63 | 0x11 << 56 | 0x100),
        )
    };
    for pending in [true, false] {
        enter(&vm, Regs::default());
        vm.m.guest_save(LP, &Regs::default(), RIP, pending);
        vm.exit(0);
        assert_eq!(details().r8, pending.into());
        // HLT by TDG.VP.VMCALL.
        enter(&vm, Regs::default());
        let halt = Regs {
            rcx: 0xFC00,
            r11: 12,
            ..Regs::default()
        };
        vm.m.guest_save(LP, &halt, RIP, pending);
        vm.m.tdcall(LP, &halt, RIP);
        assert_eq!(details().r8, pending.into());
    }
}

#[test]
fn clock_of_a_td() {
    let vm = Vm::running();
    let read = |field| vm.call(0, Regs::call(leaf::MNG_RD, TDR, field));
    let exec = |code| read(0x11u64 << 56 | code);
    assert_eq!((exec(10).rax, exec(11).rax), (0, 0));
    let mhz = exec(12).r8 * 25;
    let ratio = (u128::from(mhz) << 48) / 2000;
    assert_eq!(u128::from(exec(11).r8), ratio);
}

#[test]
fn report_proves_nothing() {
    let vm = Vm::running();
    enter(&vm, Regs::default());
    let report = |rcx, rdx| tdcall(&vm, Regs::call(tdcall::MR_REPORT, rcx, rdx)).rax;
    assert_eq!(report(0x1008, 0), invalid(op::RCX));
    assert_eq!(report(0x1000, 8), invalid(op::RDX));
    assert_eq!(report(0x1000, 1 << 47), invalid(op::RDX));
    assert_eq!(report(0x1400, 0x2040), 0);
    let word = |gpa| match vm.read(0, gpa) {
        GuestOutcome::InGuest(w) => w,
        o => panic!("{o:?}"),
    };
    assert_eq!(word(0x1400), 0x81);
    assert_eq!(word(0x1400 + 128), word(0x2040));
    assert_eq!(word(0x1400 + 224).to_le_bytes(), *b"EMULATED");
    // A page that is not there takes the vCPU out, as an access would.
    let away = Regs::call(tdcall::MR_REPORT, 0x1000, 0x9000);
    assert_eq!(
        exit(vm.m.tdcall(LP, &away, RIP)).rax,
        EXIT_REASON_EPT_VIOLATION
    );
}

#[test]
fn pages_can_be_handed_to_the_guest() {
    let vm = Vm::running();
    let page = POOL + 0x1000;
    let raw = || vm.m.machine.read(page + 64);
    let noise = raw();
    vm.m.reveal_page(HKID as u16, page).unwrap();
    assert_eq!(raw(), 1 << 32 | 64, "what PAGE.ADD put there");
    vm.m.machine.write(page + 64, 0x1234);
    vm.m.conceal_page(HKID as u16, page);
    assert!(raw() != 0x1234 && raw() != noise);
    enter(&vm, Regs::default());
    assert_eq!(vm.read(0, 0x1040), GuestOutcome::InGuest(0x1234));
    // A host's write is seen when the page is handed out next.
    vm.m.machine.write(page + 128, 7);
    let before = raw();
    let violation = vm.m.reveal_page(HKID as u16, page).unwrap_err();
    assert_eq!(violation.pa, page + 128);
    assert_eq!(raw(), before);
    let r = exit(vm.m.guest_event(LP, GuestEvent::Poison));
    assert_eq!(r.rax, NON_RECOVERABLE_TD_NON_ACCESSIBLE);
    assert_eq!(
        vm.call(LP, Regs::call(leaf::VP_ENTER, VCPU, 0)).rax,
        TD_FATAL
    );
}

#[test]
fn a_page_that_was_left_is_not_handed_out() {
    let vm = Vm::running();
    let (old, new) = (POOL + 0x1000, POOL + 0x40_0000);
    vm.block(0x1000);
    vm.track();
    assert_eq!(vm.relocate(0x1000, new).rax, 0);
    // The host has not written there, but may at any time.
    let violation = vm.m.reveal_page(HKID as u16, old).unwrap_err();
    assert_eq!(violation.pa, old);
    vm.m.reveal_page(HKID as u16, new).unwrap();
    assert_eq!(vm.m.machine.read(new + 64), 1 << 32 | 64);
}
