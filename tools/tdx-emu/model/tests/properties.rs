// SPDX-License-Identifier: GPL-2.0
//! Random legal and illegal sequences keep the invariants:
//!
//! * a frame is in at most one leaf, S-EPT and PAMT agree about it, and the
//!   TD's child count is what they say;
//! * no lock is left behind;
//! * a page that left the TD, or moved, is not reachable through a translation
//!   a vCPU still has;
//! * the guest reads what it wrote, whatever was moved in between.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use common::*;
use proptest::prelude::*;
use tdx_emu_model::regs::leaf;
use tdx_emu_model::sept::{self, State};
use tdx_emu_model::{GuestOutcome, Outcome, Regs};

const GPAS: u64 = 16;
const PAGES: u64 = 24;

#[derive(Clone, Debug)]
enum Op {
    Aug(u64, u64),
    Aug2m(u64),
    Block(u64),
    Unblock(u64),
    Track,
    Relocate(u64, u64),
    Remove(u64),
    Demote,
    Promote,
    Enter(u64),
    Exit(u64),
    Accept(u64, u64),
    Read(u64, u64),
    Write(u64, u64, u64),
    Wbinvd(u64),
    /// A call with arbitrary operands.
    Wild(u16, u64, u64, u64),
}

/// A GPA mapping: one of the 4 KiB pages, or the 2 MiB one.
fn gpa() -> impl Strategy<Value = u64> {
    prop_oneof![9 => (0..GPAS).prop_map(|i| i * 4096), 1 => Just(0x20_0001)]
}

fn small() -> impl Strategy<Value = u64> {
    (0..GPAS).prop_map(|i| i * 4096)
}

fn frame() -> impl Strategy<Value = u64> {
    (0..PAGES).prop_map(|i| POOL + i * 4096)
}

fn wild_word() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(TDR),
        Just(VCPU),
        Just(TDCX),
        Just(SEPT),
        Just(OUTSIDE),
        Just(u64::MAX),
        frame(),
        gpa(),
        any::<u64>(),
        (0u64..8),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (small(), frame()).prop_map(|(g, p)| Op::Aug(g, p)),
        1 => (0u64..2).prop_map(|i| Op::Aug2m(LARGE + i * 0x20_0000)),
        5 => gpa().prop_map(Op::Block),
        2 => gpa().prop_map(Op::Unblock),
        4 => Just(Op::Track),
        6 => (small(), frame()).prop_map(|(g, p)| Op::Relocate(g, p)),
        2 => gpa().prop_map(Op::Remove),
        1 => Just(Op::Demote),
        1 => Just(Op::Promote),
        4 => (0u64..2).prop_map(Op::Enter),
        3 => (0u64..2).prop_map(Op::Exit),
        3 => (0u64..2, gpa()).prop_map(|(v, g)| Op::Accept(v, g)),
        5 => (0u64..2, small()).prop_map(|(v, g)| Op::Read(v, g)),
        5 => (0u64..2, small(), any::<u64>()).prop_map(|(v, g, x)| Op::Write(v, g, x)),
        1 => frame().prop_map(Op::Wbinvd),
        1 => (0u16..46, wild_word(), wild_word(), wild_word())
            .prop_filter("would tear down or change tables", |w| !matches!(
                w.0,
                // Leaves whose legal effects the shadow does not follow.
                0 | 2 | 3 | 4 | 8 | 9 | 10 | 14 | 16..=22 | 26 | 28 | 30 | 33..=36 | 43
            ))
            .prop_map(|(l, a, b, c)| Op::Wild(l, a, b, c)),
    ]
}

/// What the test knows about the TD's memory: first word of each page.
struct Shadow {
    vm: Vm,
    words: BTreeMap<u64, u64>,
}

fn base() -> &'static Vm {
    static BASE: OnceLock<Vm> = OnceLock::new();
    BASE.get_or_init(Vm::running)
}

impl Shadow {
    fn new() -> Self {
        let words = (0..4).map(|i| (i * 4096, i << 32)).collect();
        Shadow {
            vm: base().fork(),
            words,
        }
    }

    fn forget(&mut self, mapping: u64) {
        if mapping & 7 == 0 {
            self.words.remove(&mapping);
        }
    }

    fn access(&mut self, v: u64, gpa: u64, write: Option<u64>) {
        let lp = 1 + v as usize;
        if self.vm.m.in_guest(lp).is_none() {
            return;
        }
        // A CPU uses the translation it has, without a walk.
        let cached = self
            .vm
            .m
            .machine
            .tlb
            .lock()
            .unwrap()
            .get(&(lp, gpa))
            .copied();
        let now = self.vm.m.guest_translation(lp, gpa);
        if let (Some(c), Some(n)) = (cached, now) {
            assert_eq!(c.0, n.0, "a translation went stale unnoticed");
        }
        let got = match write {
            None => self.vm.read(v, gpa),
            Some(x) => self.vm.write(v, gpa, x),
        };
        match got {
            GuestOutcome::InGuest(old) => {
                assert_eq!(Some(&old), self.words.get(&gpa), "content of {gpa:#x}");
                if let Some(x) = write {
                    self.words.insert(gpa, x);
                }
                let n = now.expect("the access went through");
                self.vm.m.machine.tlb.lock().unwrap().insert((lp, gpa), n);
            }
            GuestOutcome::Exit(_) | GuestOutcome::VirtException(_) => {}
            GuestOutcome::None => panic!("the module died"),
        }
    }

    fn run(&mut self, op: &Op) {
        let call = |regs: Regs| {
            let mut r = regs;
            assert_eq!(self.vm.m.seamcall(0, &mut r), Outcome::Done, "{regs:x?}");
            r.rax
        };
        match *op {
            Op::Aug(g, p) => {
                call(Regs::call3(leaf::MEM_PAGE_AUG, g, TDR, p));
            }
            Op::Aug2m(p) => {
                call(Regs::call3(leaf::MEM_PAGE_AUG, 0x20_0001, TDR, p));
            }
            Op::Block(g) => {
                call(Regs::call(leaf::MEM_RANGE_BLOCK, g, TDR));
            }
            Op::Unblock(g) => {
                call(Regs::call(leaf::MEM_RANGE_UNBLOCK, g, TDR));
            }
            Op::Track => {
                call(Regs::call(leaf::MEM_TRACK, TDR, 0));
            }
            Op::Relocate(g, p) => {
                call(Regs::call3(leaf::MEM_PAGE_RELOCATE, g, TDR, p));
            }
            Op::Remove(g) => {
                if call(Regs::call(leaf::MEM_PAGE_REMOVE, g, TDR)) == 0 {
                    self.forget(g);
                }
            }
            Op::Demote => {
                let regs = Regs {
                    r9: u64::MAX,
                    r10: u64::MAX,
                    r11: u64::MAX,
                    ..Regs::call3(leaf::MEM_PAGE_DEMOTE, 0x20_0001, TDR, SEPT + 0x8000)
                };
                call(regs);
            }
            Op::Promote => {
                call(Regs::call(leaf::MEM_PAGE_PROMOTE, 0x20_0001, TDR));
            }
            Op::Enter(v) => {
                let lp = 1 + v as usize;
                if self.vm.m.in_guest(lp).is_none() {
                    let mut r = Regs::call(leaf::VP_ENTER, VCPU + 0x1_0000 * v, 0);
                    self.vm.m.seamcall(lp, &mut r);
                }
            }
            Op::Exit(v) => {
                if self.vm.m.in_guest(1 + v as usize).is_some() {
                    self.vm.exit(v);
                }
            }
            Op::Accept(v, g) => {
                if self.vm.accept(v, g) == GuestOutcome::InGuest(0) && g & 7 == 0 {
                    self.words.insert(g, 0);
                }
            }
            Op::Read(v, g) => self.access(v, g, None),
            Op::Write(v, g, x) => self.access(v, g, Some(x)),
            Op::Wbinvd(p) => {
                call(Regs::call(leaf::PHYMEM_PAGE_WBINVD, p | 33 << 46, 0));
            }
            Op::Wild(l, a, b, c) => {
                let regs = Regs {
                    r9: c,
                    r10: a,
                    r11: b,
                    ..Regs::call3(l, a, b, c)
                };
                if call(regs) == 0 && l == leaf::MEM_PAGE_REMOVE {
                    self.forget(a);
                }
            }
        }
        self.check();
    }

    /// All leaves: frame to (GPA, level).
    fn leaves(&self) -> BTreeMap<u64, (u64, u8)> {
        let mut out = BTreeMap::new();
        let mut add = |gpa: u64, level: u8, raw: u64| {
            let hpa = sept::leaf_hpa(raw, gpa, level);
            assert!(
                out.insert(hpa, (gpa, level)).is_none(),
                "{hpa:#x} is in two leaves"
            );
        };
        for i in 0..GPAS {
            let (raw, level) = self.vm.m.sept_view(TDR, i * 4096, 0);
            if level == 0 && sept::is_leaf(raw) {
                add(i * 4096, 0, raw);
            }
        }
        let (raw, _) = self.vm.m.sept_view(TDR, 0x20_0000, 1);
        if sept::is_leaf(raw) {
            add(0x20_0000, 1, raw);
        } else if sept::try_state(raw) != Some(State::Free) {
            for i in 0..512 {
                let gpa = 0x20_0000 + i * 4096;
                let (raw, level) = self.vm.m.sept_view(TDR, gpa, 0);
                if level == 0 && sept::is_leaf(raw) {
                    add(gpa, 0, raw);
                }
            }
        }
        out
    }

    fn check(&self) {
        let m = &self.vm.m;
        let leaves = self.leaves();
        for (hpa, (gpa, level)) in &leaves {
            let e = m.pamt_view(*hpa, *level).unwrap();
            assert_eq!((e.pt, e.owner), (3, TDR), "{gpa:#x} at {hpa:#x}");
        }
        let mapped: BTreeSet<u64> = leaves.keys().copied().collect();
        let mut owned = BTreeSet::new();
        let mut tables = 0;
        for pa in (POOL..POOL + PAGES * 4096).step_by(4096) {
            if m.pamt_view(pa, 0).unwrap().pt == 3 {
                owned.insert(pa);
            }
        }
        for i in 0..2 {
            let pa = LARGE + i * 0x20_0000;
            if m.pamt_view(pa, 1).unwrap().pt == 3 {
                owned.insert(pa);
            } else {
                let small = (0..512).map(|j| pa + j * 4096);
                owned.extend(small.filter(|p| m.pamt_view(*p, 0).unwrap().pt == 3));
            }
        }
        assert_eq!(mapped, owned, "S-EPT and PAMT disagree");
        for pa in (SEPT..SEPT + 0x1_0000).step_by(4096) {
            tables += u64::from(m.pamt_view(pa, 0).unwrap().pt == 8);
        }
        let pages: u64 = leaves.values().map(|(_, l)| 1 << (9 * l)).sum();
        let td = m.td_view(TDR);
        assert_eq!(td.chldcnt, 6 + 12 + tables + pages);
        assert_eq!(
            (td.op_state_lock & !2, td.sept_lock, td.epoch_lock),
            (0, 0, 0)
        );
        let inside = [1, 2]
            .iter()
            .filter(|lp| m.in_guest(**lp).is_some())
            .count() as u64;
        assert_eq!(td.ref0 + td.ref1, inside);
        // What a running vCPU can still reach is the TD's, and is the page.
        for ((lp, gpa), (hpa, _)) in self.vm.m.machine.tlb.lock().unwrap().iter() {
            if m.in_guest(*lp).is_some() {
                let here = leaves.get(hpa).map(|l| l.0);
                assert_eq!(here, Some(*gpa), "LP {lp} still translates to {hpa:#x}");
            }
        }
    }

    /// Makes every page reachable again and reads it.
    fn read_back(&mut self) {
        for v in 0..2 {
            if self.vm.m.in_guest(1 + v as usize).is_some() {
                self.vm.exit(v);
            }
        }
        self.vm.track();
        self.vm.track();
        // What is blocked above a page hides it: from the top down.
        for mapping in [3, 2, 1].into_iter().chain((0..GPAS).map(|i| i * 4096)) {
            self.vm
                .call(0, Regs::call(leaf::MEM_RANGE_UNBLOCK, mapping, TDR));
        }
        let words = self.words.clone();
        for (gpa, value) in words {
            assert_eq!(self.vm.debug_read(gpa), value, "{gpa:#x}");
        }
        assert!(self.vm.m.violation().is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn invariants_hold(ops in proptest::collection::vec(op(), 1..160)) {
        let mut s = Shadow::new();
        for o in &ops {
            s.run(o);
        }
        s.read_back();
    }

    /// Any sequence of correct moves leaves every byte where the guest put it.
    #[test]
    fn moves_preserve_content(moves in proptest::collection::vec((0..4u64, frame()), 1..60)) {
        let vm = base().fork();
        for (page, to) in moves {
            let gpa = page * 4096;
            vm.block(gpa);
            vm.track();
            let r = vm.relocate(gpa, to);
            if r.rax != 0 {
                // The frame is taken: roll back.
                vm.ok(0, Regs::call(leaf::MEM_RANGE_UNBLOCK, gpa, TDR));
            }
        }
        for page in 0..4 {
            for w in (0..4096).step_by(8) {
                prop_assert_eq!(vm.debug_read(page * 4096 + w), page << 32 | w);
            }
        }
    }

    /// Arbitrary registers never kill the module nor leave a lock.
    #[test]
    fn any_registers(calls in proptest::collection::vec((0u64..48, wild_word(), wild_word(), wild_word(), wild_word(), 0usize..8), 1..200)) {
        let vm = base().fork();
        for (rax, rcx, rdx, r8, r9, lp) in calls {
            if rax == 0 && vm.m.in_guest(lp).is_some() {
                continue;
            }
            let mut r = Regs { rax, rcx, rdx, r8, r9, ..Regs::default() };
            let before = r;
            prop_assert_ne!(vm.m.seamcall(lp, &mut r), Outcome::VmFailInvalid, "{:x?}", before);
            prop_assert!(vm.m.quiescent());
        }
    }
}

/// A page that is blocked, in a range that is.
#[test]
fn blocked_twice() {
    let mut s = Shadow::new();
    s.run(&Op::Block(0));
    s.run(&Op::Wild(leaf::MEM_RANGE_BLOCK, 1, TDR, TDR));
    s.read_back();
}
