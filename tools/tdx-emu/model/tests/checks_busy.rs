// SPDX-License-Identifier: GPL-2.0
//! The rows of the check tables that only overlapping calls see: locks of the
//! module's own, and of the pages of the PHYMEM leaves.

mod common;

use std::sync::{Arc, Barrier};
use std::thread;

use common::*;
use tdx_emu_model::locks::{Mode, Side};
use tdx_emu_model::pseudo::LockObj;
use tdx_emu_model::regs::op;
use tdx_emu_model::status::*;
use tdx_emu_model::{Config, Module, Regs};

fn want(vm: &Vm, what: &str, lp: usize, regs: Regs, status: u64) {
    let r = vm.call(lp, regs);
    assert_eq!(r.rax, status, "{what}: {:#x} not {status:#x}", r.rax);
}

/// Lets the call go on, after a failed test too.
struct GoOn<'a>(&'a Barrier);

impl Drop for GoOn<'_> {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// Makes `call` on LP 0 and, while it is inside with its locks, `others`.
fn during(vm: &mut Vm, call: Regs, others: impl FnOnce(&Vm)) {
    let here = Arc::new(Barrier::new(2));
    let there = Arc::clone(&here);
    let first = std::sync::Once::new();
    vm.m.machine.asked = Some(Box::new(move || {
        first.call_once(|| {
            there.wait();
            there.wait();
        });
    }));
    let vm = &*vm;
    thread::scope(|s| {
        s.spawn(|| vm.ok(0, call));
        here.wait();
        let _go_on = GoOn(&here);
        others(vm);
    });
}

#[test]
fn the_lock_of_the_module() {
    let fresh = Vm::bare();
    let config = Config {
        pkgs: 2,
        ..Config::default()
    };
    let m = Module::new(fresh.m.machine.duplicate(), config);
    let mut vm = Vm { m };
    vm.ok(0, Regs::call(33, 0, 0));
    for lp in 0..8 {
        vm.ok(lp, Regs::call(35, 0, 0));
    }
    vm.ok(0, Regs::call3(45, 0x10_0000, 2, 32));
    let busy_leaves = [
        ("INIT", Regs::call(33, 0, 0)),
        ("LP.INIT", Regs::call(35, 0, 0)),
        ("CONFIG", Regs::call3(45, 0x10_0000, 2, 32)),
        ("KEY.CONFIG", Regs::call(31, 0, 0)),
    ];
    during(&mut vm, Regs::call(31, 0, 0), |vm| {
        for (what, regs) in busy_leaves {
            want(vm, what, 4, regs, SYS_BUSY);
        }
    });
}

#[test]
fn the_key_ownership_table() {
    let vm = Vm::running();
    for (mode, regs) in [
        (Mode::Shared, Regs::call(19, TDR, 0)),
        (Mode::Exclusive, Regs::call(40, 0, 0)),
    ] {
        vm.m.lock(LockObj::Kot, mode, Side::Host).unwrap();
        want(&vm, "KOT", 0, regs, busy(op::KOT));
        vm.m.unlock(LockObj::Kot, mode);
    }
    for v in 0..2 {
        vm.ok(1 + v, Regs::call(18, VCPU + 0x1_0000 * v as u64, 0));
    }
    vm.ok(0, Regs::call(19, TDR, 0));
    // Before the caches are looked at.
    vm.m.lock(LockObj::Kot, Mode::Shared, Side::Host).unwrap();
    want(&vm, "FREEID", 0, Regs::call(20, TDR, 0), busy(op::KOT));
    vm.m.unlock(LockObj::Kot, Mode::Shared);
    let caches = WBCACHE_NOT_COMPLETE;
    want(&vm, "FREEID", 0, Regs::call(20, TDR, 0), caches);
}

#[test]
fn two_write_backs_of_a_package() {
    let mut vm = Vm::running();
    for v in 0..2 {
        vm.ok(1 + v, Regs::call(18, VCPU + 0x1_0000 * v as u64, 0));
    }
    vm.ok(0, Regs::call(19, TDR, 0));
    during(&mut vm, Regs::call(40, 0, 0), |vm| {
        for resume in [0, 1] {
            let regs = Regs::call(40, resume, 0);
            want(vm, "CACHE.WB", 1, regs, busy(op::WBCACHE));
        }
    });
    vm.ok(0, Regs::call(20, TDR, 0));
}

#[test]
fn phymem_pages() {
    let vm = Vm::running();
    let free = POOL + 0x8000;
    for (what, leaf, pa, mode) in [
        ("RDMD", 24, POOL, Mode::Exclusive),
        ("RECLAIM", 28, POOL, Mode::Shared),
        ("RECLAIM", 28, POOL, Mode::Exclusive),
        ("WBINVD", 41, free, Mode::Exclusive),
    ] {
        let page = LockObj::Pamt { hpa: pa, level: 0 };
        vm.m.lock(page, mode, Side::Host).unwrap();
        want(&vm, what, 0, Regs::call(leaf, pa, 0), busy(op::RCX));
        vm.m.unlock(page, mode);
    }
    for (leaf, pa) in [(24, POOL), (41, free)] {
        let page = LockObj::Pamt { hpa: pa, level: 0 };
        vm.m.lock(page, Mode::Shared, Side::Host).unwrap();
        vm.ok(0, Regs::call(leaf, pa, 0));
        vm.m.unlock(page, Mode::Shared);
    }
    let owner = LockObj::Pamt { hpa: TDR, level: 0 };
    vm.m.lock(owner, Mode::Exclusive, Side::Host).unwrap();
    want(&vm, "owner", 0, Regs::call(28, POOL, 0), busy(op::TDR));
}
