// SPDX-License-Identifier: GPL-2.0
//! Honesty of memory: what belongs to a TD is noise to the host, moves only by
//! RELOCATE, and does not survive being written by somebody else.

mod common;

use common::*;
use tdx_emu_model::regs::leaf;
use tdx_emu_model::{GuestOutcome, Outcome, PhysMem, Regs};

fn page(vm: &Vm, pa: u64) -> Vec<u64> {
    (0..512).map(|i| vm.m.machine.read(pa + 8 * i)).collect()
}

#[test]
fn host_sees_ciphertext() {
    let vm = Vm::running();
    let plain: Vec<u64> = (0..512).map(|i| (1 << 32) | (8 * i)).collect();
    let raw = page(&vm, POOL + 0x1000);
    assert!(raw.iter().zip(&plain).all(|(a, b)| a != b));
    for i in 0..512 {
        assert_eq!(vm.debug_read(0x1000 + 8 * i), plain[i as usize]);
    }
}

#[test]
fn relocate_keeps_the_content() {
    let vm = Vm::running();
    let old = page(&vm, POOL + 0x2000);
    vm.block(0x2000);
    vm.track();
    let r = vm.relocate(0x2000, POOL + 0x8000);
    assert_eq!((r.rax, r.rcx, r.rdx), (0, POOL + 0x2000, 0));
    assert_ne!(
        page(&vm, POOL + 0x8000),
        old,
        "the address is part of the key"
    );
    for i in 0..512 {
        assert_eq!(vm.debug_read(0x2000 + 8 * i), (2 << 32) | (8 * i));
    }
    vm.enter(0);
    assert_eq!(vm.read(0, 0x2008), GuestOutcome::InGuest(2 << 32 | 8));
}

#[test]
fn copying_the_bytes_does_not_move_a_page() {
    // What a backend would do that copies instead of relocating: remove, copy
    // the raw bytes, map the copy.
    let vm = Vm::running();
    let raw = page(&vm, POOL + 0x1000);
    vm.block(0x1000);
    vm.track();
    vm.ok(0, Regs::call(leaf::MEM_PAGE_REMOVE, 0x1000, TDR));
    for (i, w) in raw.iter().enumerate() {
        vm.m.machine.write(POOL + 0x8000 + 8 * i as u64, *w);
    }
    vm.ok(
        0,
        Regs::call3(leaf::MEM_PAGE_AUG, 0x1000, TDR, POOL + 0x8000),
    );
    vm.enter(0);
    assert_eq!(vm.accept(0, 0x1000), GuestOutcome::InGuest(0));
    for i in 0..512 {
        assert_eq!(vm.read(0, 0x1000 + 8 * i), GuestOutcome::InGuest(0));
    }
}

#[test]
fn pending_target_is_untouched() {
    let vm = Vm::running();
    let poison = 0xDEAD_BEEF_0BAD_F00D;
    for i in 0..512 {
        vm.m.machine.write(POOL + 0x8000 + 8 * i, poison);
    }
    vm.block(0x4000);
    vm.track();
    let r = vm.relocate(0x4000, POOL + 0x8000);
    assert_eq!((r.rax, r.rcx), (0, POOL + 0x4000));
    assert!(page(&vm, POOL + 0x8000).iter().all(|w| *w == poison));
    assert_eq!(vm.state(0x4000), 2);
    vm.enter(0);
    assert_eq!(vm.accept(0, 0x4000), GuestOutcome::InGuest(0));
    assert_eq!(vm.read(0, 0x4ff8), GuestOutcome::InGuest(0));
}

#[test]
fn stray_write_is_noticed_by_the_guest() {
    let vm = Vm::running();
    vm.m.machine.write(POOL + 0x1048, 1);
    vm.enter(0);
    assert_eq!(
        vm.read(0, 0x1000),
        GuestOutcome::InGuest(1 << 32),
        "another line"
    );
    match vm.read(0, 0x1070) {
        GuestOutcome::Exit(r) => assert_eq!(r.rax >> 32, 0x6000_0005),
        o => panic!("{o:?}"),
    }
    let v = vm.m.violation().unwrap();
    assert_eq!((v.pa, v.count), (POOL + 0x1040, 1));
    // The TD is lost, the module is not.
    let r = vm.call(0, Regs::call(leaf::MEM_TRACK, TDR, 0));
    assert_eq!(r.rax, tdx_emu_model::status::TD_FATAL);
    // The exit did not count the vCPU out of its epoch.
    assert_eq!(vm.m.td_view(TDR).ref1, 1);
}

#[test]
fn stray_write_kills_the_module_that_copies_it() {
    let vm = Vm::running();
    vm.m.machine.write(POOL + 0x1000, 1);
    vm.block(0x1000);
    vm.track();
    let before = Regs::call3(leaf::MEM_PAGE_RELOCATE, 0x1000, TDR, POOL + 0x8000);
    let mut r = before;
    assert_eq!(vm.m.seamcall(0, &mut r), Outcome::VmFailInvalid);
    assert_eq!(r, before);
    assert!(vm.m.is_dead());
    assert_eq!(vm.m.seamcall(0, &mut r), Outcome::VmFailInvalid);
}

#[test]
fn stray_write_to_control_structures() {
    for (what, pa) in [("TDR", TDR), ("S-EPT", SEPT + 0x2000), ("TDVPR", VCPU)] {
        let vm = Vm::running();
        let n = if what == "S-EPT" { 512 } else { 1 };
        for i in 0..n {
            vm.m.machine.write(pa + 8 * i, 0x0123_4567_89AB_CDEF);
        }
        let mut r = match what {
            "TDVPR" => Regs::call(leaf::VP_FLUSH, VCPU, 0),
            "TDR" => Regs::call(leaf::MEM_TRACK, TDR, 0),
            // A walk that has to pass the page finds no entry in it.
            _ => {
                for i in 0..512 {
                    vm.m.machine
                        .write(SEPT + 0x1000 + 8 * i, 0x0123_4567_89AB_CDEF);
                }
                Regs::call(leaf::MEM_RANGE_BLOCK, 0x1000, TDR)
            }
        };
        assert_eq!(vm.m.seamcall(1, &mut r), Outcome::VmFailInvalid, "{what}");
        assert!(vm.m.violation().is_some(), "{what}");
    }
}

#[test]
fn freed_page_is_the_hosts() {
    let vm = Vm::running();
    vm.block(0x1000);
    vm.track();
    assert_eq!(vm.relocate(0x1000, POOL + 0x8000).rax, 0);
    let hkid = vm.m.config.with_hkid(POOL + 0x1000, HKID as u16);
    vm.ok(0, Regs::call(leaf::PHYMEM_PAGE_WBINVD, hkid, 0));
    vm.m.machine.write(POOL + 0x1000, 5);
    assert_eq!(vm.debug_read(0x1000), 1 << 32);
    assert!(vm.m.violation().is_none());
    // Writing the page that is still in use is refused a flush, too.
    let hkid = vm.m.config.with_hkid(POOL + 0x8000, HKID as u16);
    let r = vm.call(0, Regs::call(leaf::PHYMEM_PAGE_WBINVD, hkid, 0));
    assert_eq!(r.rax, 0xC000_0300_0000_0001);
}

#[test]
fn guest_writes_move_with_the_page() {
    let vm = Vm::running();
    vm.enter(0);
    for i in 0..512 {
        assert!(matches!(
            vm.write(0, 0x3000 + 8 * i, 77 * i),
            GuestOutcome::InGuest(_)
        ));
    }
    for target in [0x8000, 0x9000, 0x3000] {
        vm.block(0x3000);
        vm.track();
        assert_eq!(
            vm.relocate(0x3000, POOL + target).rax,
            0xC000_0B08_0000_0001
        );
        vm.exit(0);
        assert_eq!(vm.relocate(0x3000, POOL + target).rax, 0);
        vm.enter(0);
        for i in 0..512 {
            assert_eq!(vm.read(0, 0x3000 + 8 * i), GuestOutcome::InGuest(77 * i));
        }
    }
}
