// SPDX-License-Identifier: GPL-2.0
//! Concurrent callers: once with a scheduler that switches between them at
//! memory accesses, by seed, so that a failure can be repeated; once with free
//! running threads.

mod common;

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use common::*;
use tdx_emu_model::regs::{leaf, op};
use tdx_emu_model::status::*;
use tdx_emu_model::{GuestEvent, GuestOutcome, Outcome, Regs};

thread_local! {
    static ME: Cell<usize> = const { Cell::new(usize::MAX) };
}

struct Inner {
    turn: usize,
    alive: Vec<bool>,
    rng: u64,
}

/// Hands one baton around.
struct Scheduler {
    inner: Mutex<Inner>,
    turn: Condvar,
}

impl Scheduler {
    fn new(threads: usize, seed: u64) -> Self {
        Scheduler {
            inner: Mutex::new(Inner {
                turn: 0,
                alive: vec![true; threads],
                rng: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            }),
            turn: Condvar::new(),
        }
    }

    fn next(i: &mut Inner) {
        i.rng ^= i.rng << 13;
        i.rng ^= i.rng >> 7;
        i.rng ^= i.rng << 17;
        let n = i.alive.len();
        let start = (i.rng >> 33) as usize % n;
        if let Some(t) = (0..n).map(|k| (start + k) % n).find(|t| i.alive[*t]) {
            i.turn = t;
        }
    }

    fn wait(&self, me: usize) {
        let i = self.inner.lock().unwrap();
        drop(self.turn.wait_while(i, |i| i.turn != me).unwrap());
    }

    /// Called at every memory access.
    fn step(&self) {
        let me = ME.get();
        if me == usize::MAX {
            return;
        }
        let mut i = self.inner.lock().unwrap();
        i.rng = i.rng.wrapping_add(1);
        if i.rng % 5 == 0 {
            Self::next(&mut i);
            self.turn.notify_all();
        }
        drop(i);
        self.wait(me);
    }

    fn done(&self, me: usize) {
        ME.set(usize::MAX);
        let mut i = self.inner.lock().unwrap();
        i.alive[me] = false;
        Self::next(&mut i);
        self.turn.notify_all();
    }
}

fn base() -> &'static Vm {
    static BASE: OnceLock<Vm> = OnceLock::new();
    BASE.get_or_init(|| {
        let vm = Vm::running();
        vm.enter(0);
        for gpa in (0x4000..0x8000).step_by(4096) {
            assert_eq!(vm.accept(0, gpa), GuestOutcome::InGuest(0));
        }
        vm.exit(0);
        vm
    })
}

fn call(vm: &Vm, lp: usize, regs: Regs) -> Regs {
    let mut r = regs;
    assert_eq!(vm.m.seamcall(lp, &mut r), Outcome::Done, "{regs:x?}");
    r
}

/// Repeats a call while it is busy.
fn patient(vm: &Vm, lp: usize, regs: Regs) -> Regs {
    loop {
        let r = call(vm, lp, regs);
        let c = class(r.rax);
        if c != OPERAND_BUSY && c != PREVIOUS_TLB_EPOCH_BUSY && c != TLB_TRACKING_NOT_DONE {
            return r;
        }
        std::thread::yield_now();
    }
}

/// Moves pages 0 to 3 by the protocol, retrying as it says.
fn mover(vm: &Vm, rounds: u64) {
    for i in 0..rounds {
        let gpa = i % 4 * 4096;
        let to = POOL + (16 + i) * 4096;
        let r = patient(vm, 0, Regs::call(leaf::MEM_RANGE_BLOCK, gpa, TDR));
        assert_eq!(r.rax, 0, "BLOCK");
        assert_eq!(
            patient(vm, 0, Regs::call(leaf::MEM_TRACK, TDR, 0)).rax,
            0,
            "TRACK"
        );
        let r = patient(vm, 0, Regs::call3(leaf::MEM_PAGE_RELOCATE, gpa, TDR, to));
        assert_eq!(r.rax, 0, "RELOCATE: {:#x}", r.rax);
    }
}

/// Another host CPU, busy with other pages and with looking around.
fn neighbour(vm: &Vm, rounds: u64) {
    for i in 0..rounds {
        let page = POOL + (60 + i) * 4096;
        let gpa = 0x9000 + i % 4 * 4096;
        let r = patient(vm, 3, Regs::call3(leaf::MEM_PAGE_AUG, gpa, TDR, page));
        assert_eq!(r.rax, 0, "AUG: {:#x}", r.rax);
        call(
            vm,
            3,
            Regs::call(leaf::PHYMEM_PAGE_RDMD, POOL + (16 + i) * 4096, 0),
        );
        call(vm, 3, Regs::call(leaf::MEM_SEPT_RD, i % 4 * 4096, TDR));
        let r = patient(vm, 3, Regs::call(leaf::MEM_RANGE_BLOCK, gpa, TDR));
        assert_eq!(r.rax, 0, "BLOCK");
        let r = loop {
            let r = patient(vm, 3, Regs::call(leaf::MEM_TRACK, TDR, 0));
            assert_eq!(r.rax, 0);
            let r = patient(vm, 3, Regs::call(leaf::MEM_PAGE_REMOVE, gpa, TDR));
            if r.rax == 0 {
                break r;
            }
        };
        assert_eq!(r.rcx, page);
    }
}

/// A vCPU: enters, reads and writes its own words, leaves.
fn runner(vm: &Vm, v: u64, rounds: u64) {
    let lp = 1 + v as usize;
    let tdvpr = VCPU + 0x1_0000 * v;
    // Each vCPU has cache lines of its own.
    let word = |i: u64| i % 4 * 4096 + 0x800 + 64 * v;
    let mut mine = [0u64; 4];
    for (i, w) in mine.iter_mut().enumerate() {
        *w = (i as u64) << 32 | (0x800 + 64 * v);
    }
    for i in 0..rounds {
        let mut r = Regs::call(leaf::VP_ENTER, tdvpr, 0);
        loop {
            let again = Regs::call(leaf::VP_ENTER, tdvpr, 0);
            match vm.m.seamcall(lp, &mut r) {
                Outcome::Entered => break,
                Outcome::Done => {
                    let busy = class(r.rax) == OPERAND_BUSY;
                    assert!(busy || r.rax == EXIT_REASON_EPT_VIOLATION, "{:#x}", r.rax);
                    r = again;
                }
                Outcome::VmFailInvalid => panic!("the module died"),
            }
        }
        let slot = (i % 4) as usize;
        match vm.m.guest_event(lp, GuestEvent::Read { gpa: word(i) }) {
            GuestOutcome::InGuest(x) => assert_eq!(x, mine[slot], "vCPU {v} word {slot}"),
            GuestOutcome::Exit(e) => {
                assert_eq!((e.rax, e.r8), (EXIT_REASON_EPT_VIOLATION, word(i) & !0xFFF));
                continue;
            }
            o => panic!("{o:?}"),
        }
        let value = i << 8 | v;
        match vm.m.guest_event(
            lp,
            GuestEvent::Write {
                gpa: word(i),
                value,
            },
        ) {
            GuestOutcome::InGuest(_) => mine[slot] = value,
            GuestOutcome::Exit(_) => continue,
            o => panic!("{o:?}"),
        }
        vm.m.guest_event(lp, GuestEvent::Interrupt { rip_adv: 64 });
    }
}

fn settle(vm: &Vm, children: u64, moved: u64) {
    let td = vm.m.td_view(TDR);
    assert_eq!(td.chldcnt, children);
    assert_eq!((td.ref0, td.ref1), (0, 0));
    assert_eq!(
        (td.op_state_lock & !2, td.sept_lock, td.epoch_lock),
        (0, 0, 0)
    );
    for i in 0..128 {
        let e = vm.m.pamt_view(POOL + i * 4096, 0).unwrap();
        assert_eq!(e.lock & !2, 0, "page {i}");
    }
    assert!(vm.m.violation().is_none());
    for page in 0..4 {
        let r = call(vm, 0, Regs::call(leaf::MEM_SEPT_RD, page * 4096, TDR));
        assert_eq!((r.rax, r.rdx), (0, 4 << 8), "page {page}");
        if moved > page {
            assert!(r.rcx & 0xF_FFFF_F000 >= POOL + 16 * 4096);
        }
        for w in (0..0x800).step_by(8) {
            let r = call(vm, 0, Regs::call(leaf::MEM_RD, page * 4096 + w, TDR));
            assert_eq!(r.r8, page << 32 | w);
        }
    }
}

fn interleaved(seed: u64) {
    let mut vm = base().fork();
    let sched = Arc::new(Scheduler::new(4, seed));
    let hook = sched.clone();
    vm.m.machine.step = Some(Box::new(move || hook.step()));
    let children = vm.m.td_view(TDR).chldcnt;
    let vm = &vm;
    let run = |me: usize, f: &(dyn Fn() + Sync)| {
        ME.set(me);
        sched.wait(me);
        let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        sched.done(me);
        if let Err(e) = r {
            std::panic::resume_unwind(e);
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| run(0, &|| mover(vm, 6)));
        s.spawn(|| run(1, &|| runner(vm, 0, 24)));
        s.spawn(|| run(2, &|| runner(vm, 1, 24)));
        s.spawn(|| run(3, &|| neighbour(vm, 4)));
    });
    settle(vm, children, 6);
}

#[test]
fn seeded_interleavings() {
    for seed in 1..=24 {
        interleaved(seed);
    }
}

#[test]
fn free_running_threads() {
    let vm = base().fork();
    let children = vm.m.td_view(TDR).chldcnt;
    let vm = &vm;
    std::thread::scope(|s| {
        s.spawn(|| mover(vm, 40));
        s.spawn(|| runner(vm, 0, 2000));
        s.spawn(|| runner(vm, 1, 2000));
        s.spawn(|| neighbour(vm, 30));
    });
    settle(vm, children, 40);
}

/// The operands a relocation can find busy are the documented ones.
#[test]
fn busy_operands() {
    let vm = base().fork();
    vm.block(0x1000);
    vm.track();
    let regs = Regs::call3(leaf::MEM_PAGE_RELOCATE, 0x1000, TDR, POOL + 20 * 4096);
    vm.enter(0);
    // A vCPU inside holds TDR and TDVPR shared: no conflict.
    assert_eq!(call(&vm, 0, regs).rax, 0);
    let r = call(&vm, 0, Regs::call(leaf::MNG_VPFLUSHDONE, TDR, 0));
    assert_eq!(r.rax, busy(op::RCX));
}
