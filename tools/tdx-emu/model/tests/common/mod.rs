// SPDX-License-Identifier: GPL-2.0
//! A machine with real atomics, integrity tags and a TLB per logical
//! processor, and a TD on it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::Mutex;

use tdx_emu_model::regs::{leaf, op};
use tdx_emu_model::status::with_op;
use tdx_emu_model::{Config, GuestEvent, GuestOutcome, Module, Outcome, PhysMem, Platform, Regs};

pub const GIB: u64 = 1 << 30;
pub const TDMR: u64 = 0x4000_0000;
pub const UNINIT: u64 = 0xC000_0000;
pub const OUTSIDE: u64 = 0x1_0000_0000;
pub const RESERVED: u64 = 0x7000_0000;
const PAMT: u64 = 0x2000_0000;
const LOW: u64 = 0x40_0000;
const HIGH: u64 = 0x80_0000;

pub const TDR: u64 = TDMR;
pub const TDCX: u64 = TDMR + 0x1000;
pub const SEPT: u64 = TDMR + 0x1_0000;
pub const VCPU: u64 = TDMR + 0x4_0000;
/// Free 4 KiB pages.
pub const POOL: u64 = TDMR + 0x20_0000;
/// Free 2 MiB pages.
pub const LARGE: u64 = TDMR + 0x40_0000;
pub const PARAMS: u64 = 0x10_0000;
pub const SOURCE: u64 = 0x20_0000;
pub const HKID: u64 = 33;

type Words = Vec<AtomicU64>;

fn words(bytes: u64) -> Words {
    (0..bytes / 8).map(|_| AtomicU64::new(0)).collect()
}

fn copy(w: &Words) -> Words {
    w.iter().map(|x| AtomicU64::new(x.load(SeqCst))).collect()
}

pub struct Machine {
    segments: [(u64, Words); 3],
    tags: Words,
    void: AtomicU64,
    pub interrupt: AtomicBool,
    pub pconfig: AtomicU64,
    pub tsc: AtomicU64,
    pub flushed: AtomicU64,
    pub callback: AtomicU64,
    /// Cached translations: (LP, GPA page) to (page, writable).
    pub tlb: Mutex<HashMap<(usize, u64), (u64, bool)>>,
    /// Called before every access; for interleaving tests.
    pub step: Option<Box<dyn Fn() + Send + Sync>>,
    /// Called when a key is programmed or interrupts are looked at, which a
    /// call does with its locks held.
    pub asked: Option<Box<dyn Fn() + Send + Sync>>,
    pub no_entropy: AtomicBool,
}

impl Machine {
    fn new() -> Self {
        Machine {
            segments: [
                (0, words(LOW)),
                (PAMT, words(0x40_4000)),
                (TDMR, words(HIGH)),
            ],
            tags: words(HIGH / 64 * 8),
            void: AtomicU64::new(0),
            interrupt: AtomicBool::new(false),
            pconfig: AtomicU64::new(0),
            tsc: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            callback: AtomicU64::new(0),
            tlb: Mutex::default(),
            step: None,
            asked: None,
            no_entropy: AtomicBool::new(false),
        }
    }

    pub fn duplicate(&self) -> Self {
        let mut m = Machine::new();
        for (i, s) in self.segments.iter().enumerate() {
            m.segments[i].1 = copy(&s.1);
        }
        m.tags = copy(&self.tags);
        m.tsc = AtomicU64::new(self.tsc.load(SeqCst));
        m
    }

    fn ask(&self) {
        if let Some(f) = &self.asked {
            f();
        }
    }

    fn at(&self, pa: u64) -> &AtomicU64 {
        if let Some(f) = &self.step {
            f();
        }
        let (base, w) = self
            .segments
            .iter()
            .rfind(|s| s.0 <= pa)
            .expect("segment 0 starts at 0");
        match w.get(((pa - base) / 8) as usize) {
            Some(word) => word,
            // The rest of the TDMR exists, but nobody needs its content.
            None if (TDMR..TDMR + GIB).contains(&pa) => &self.void,
            None => panic!("nothing at {pa:#x}"),
        }
    }
}

impl PhysMem for Machine {
    fn read(&self, pa: u64) -> u64 {
        self.at(pa).load(SeqCst)
    }
    fn write(&self, pa: u64, value: u64) {
        self.at(pa).store(value, SeqCst);
    }
    fn cas(&self, pa: u64, old: u64, new: u64) -> Result<(), u64> {
        self.at(pa)
            .compare_exchange(old, new, SeqCst, SeqCst)
            .map(|_| ())
    }
    fn has_tags(&self) -> bool {
        true
    }
    fn tag(&self, line: u64) -> u64 {
        let index = line.checked_sub(TDMR).map(|o| (o / 64) as usize);
        index
            .and_then(|i| self.tags.get(i))
            .map_or(0, |t| t.load(SeqCst))
    }
    fn set_tag(&self, line: u64, tag: u64) {
        if let Some(t) = self.tags.get(((line - TDMR) / 64) as usize) {
            t.store(tag, SeqCst);
        }
    }
}

impl Platform for Machine {
    fn tsc(&self, _lp: usize) -> u64 {
        self.tsc.fetch_add(1000, SeqCst)
    }
    fn interrupt_pending(&self, _lp: usize) -> bool {
        self.ask();
        self.interrupt.load(SeqCst)
    }
    fn pconfig(&self, _lp: usize, _hkid: u16) -> u64 {
        self.ask();
        self.pconfig.load(SeqCst)
    }
    fn random(&self) -> Option<u64> {
        (!self.no_entropy.load(SeqCst)).then_some(0x9E37_79B9_7F4A_7C15)
    }
    fn flush_page(&self, _pa: u64, _hkid: u16) {
        self.flushed.fetch_add(1, SeqCst);
    }
    fn fault_callback(&self, _lp: usize, _leaf: u16, id: u32) {
        self.callback.store(id.into(), SeqCst);
    }
    fn cpuid(&self, _lp: usize, leaf: u32, sub: u32) -> [u32; 4] {
        native_cpuid(leaf, sub)
    }
    fn msr(&self, _lp: usize, index: u32) -> u64 {
        match index {
            0x10A => u64::MAX,
            0xC000_0080 => 0xD01,
            _ => 0,
        }
    }
    fn sha512_block(&self, state: &mut [u64; 8], block: &[u8; 128]) {
        sha2::compress512(state, &[(*block).into()]);
    }
    fn invept(&self, lp: usize, _eptp: u64) {
        self.tlb.lock().unwrap().retain(|k, _| k.0 != lp);
    }
}

/// Family, model and stepping of the machine.
pub const FMS: u32 = 0x000C_06F2;

/// A CPU that has all there is.
pub fn native_cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    match (leaf, sub) {
        (1, _) => [FMS, u32::MAX, u32::MAX, u32::MAX],
        // Size, place, user state.
        (0xD, 2) => [256, 576, 0, 0],
        (0xD, 9) => [8, 2688, 0, 0],
        (0xD, 11) => [16, 0, 1, 0],
        _ => [u32::MAX; 4],
    }
}

pub struct Vm {
    pub m: Module<Machine>,
}

pub fn busy(operand: u32) -> u64 {
    with_op(tdx_emu_model::status::OPERAND_BUSY, operand)
}

pub fn invalid(operand: u32) -> u64 {
    with_op(tdx_emu_model::status::OPERAND_INVALID, operand)
}

impl Vm {
    /// A READY module without TDs.
    pub fn bare() -> Self {
        Vm::bare_with(true)
    }

    pub fn bare_with(cipher: bool) -> Self {
        let config = Config {
            cipher,
            seamrr: (0x3F00_0000, 0x100_0000),
            ..Config::default()
        };
        let mem = Machine::new();
        for (i, base) in [TDMR, UNINIT].into_iter().enumerate() {
            let info = 0x10_1000 + 512 * i as u64;
            mem.write(0x10_0000 + 8 * i as u64, info);
            let p = PAMT + 0x50_0000 * i as u64;
            let w = [
                base,
                GIB,
                p,
                0x1000,
                p + 0x1000,
                0x2000,
                p + 0x3000,
                0x40_0000,
            ];
            for (j, w) in w.into_iter().enumerate() {
                mem.write(info + 8 * j as u64, w);
            }
            if base == TDMR {
                mem.write(info + 64, RESERVED - TDMR);
                mem.write(info + 72, 0x40_0000);
            }
        }
        let vm = Vm {
            m: Module::new(mem, config),
        };
        vm.ok(0, Regs::call(leaf::SYS_INIT, 0, 0));
        for lp in 0..8 {
            vm.ok(lp, Regs::call(leaf::SYS_LP_INIT, 0, 0));
        }
        vm.ok(0, Regs::call3(leaf::SYS_CONFIG, 0x10_0000, 2, 32));
        vm.ok(0, Regs::call(leaf::SYS_KEY_CONFIG, 0, 0));
        while vm.ok(0, Regs::call(leaf::SYS_TDMR_INIT, TDMR, 0)).rdx < TDMR + GIB {}
        vm
    }

    /// A TD that is INITIALIZED, debuggable, with two vCPUs on LP 1 and 2, and
    /// tables for GPA 0 to 2 MiB. Pages 0 to 3 are added, 4 to 7 augmented.
    pub fn building() -> Self {
        Vm::building_with(true)
    }

    pub fn building_with(cipher: bool) -> Self {
        Vm::building_from(cipher, &[])
    }

    /// The same with other words of TD_PARAMS: offset and content.
    pub fn building_from(cipher: bool, params: &[(u64, u64)]) -> Self {
        let vm = Vm::bare_with(cipher);
        vm.create(TDR, HKID);
        for i in 0..6 {
            vm.ok(0, Regs::call(leaf::MNG_ADDCX, TDCX + 0x1000 * i, TDR));
        }
        vm.params(1);
        for (offset, word) in params {
            vm.m.machine.write(PARAMS + offset, *word);
        }
        vm.ok(0, Regs::call(leaf::MNG_INIT, TDR, PARAMS));
        for v in 0..2 {
            let tdvpr = VCPU + 0x1_0000 * v;
            vm.ok(0, Regs::call(leaf::VP_CREATE, tdvpr, TDR));
            for i in 1..6 {
                vm.ok(0, Regs::call(leaf::VP_ADDCX, tdvpr + 0x1000 * i, tdvpr));
            }
            vm.ok(1 + v as usize, Regs::call(leaf::VP_INIT, tdvpr, 7));
        }
        for (i, level) in [3u64, 2, 1].into_iter().enumerate() {
            let page = SEPT + 0x1000 * i as u64;
            vm.ok(0, Regs::call3(leaf::MEM_SEPT_ADD, level, TDR, page));
        }
        for i in 0..4 {
            for w in (0..4096).step_by(8) {
                vm.m.machine.write(SOURCE + w, i << 32 | w);
            }
            vm.ok(
                0,
                Regs {
                    r9: SOURCE,
                    ..Regs::call3(leaf::MEM_PAGE_ADD, i * 0x1000, TDR, POOL + i * 0x1000)
                },
            );
        }
        for i in 4..8 {
            vm.ok(
                0,
                Regs::call3(leaf::MEM_PAGE_AUG, i * 0x1000, TDR, POOL + i * 0x1000),
            );
        }
        vm
    }

    /// The same TD, RUNNABLE.
    pub fn running() -> Self {
        Vm::running_with(true)
    }

    pub fn running_with(cipher: bool) -> Self {
        let vm = Vm::building_with(cipher);
        vm.ok(0, Regs::call(leaf::MR_FINALIZE, TDR, 0));
        vm
    }

    /// A TD with other words of TD_PARAMS, its first vCPU in the guest on LP 1.
    pub fn entered(params: &[(u64, u64)]) -> Self {
        let vm = Vm::building_from(true, params);
        vm.ok(0, Regs::call(leaf::MR_FINALIZE, TDR, 0));
        vm.enter(0);
        vm
    }

    /// TDCALL by the guest on LP 1 that stays there.
    pub fn tdcall(&self, regs: Regs) -> Regs {
        let o = self.m.tdcall(1, &regs, 0x1000);
        assert!(matches!(o, GuestOutcome::InGuest(_)), "{o:?}");
        self.m.guest_load(1).unwrap().0
    }

    /// TDG.VM.RD of `n` elements.
    pub fn td_field(&self, first: u64, n: u64) -> Vec<u64> {
        let read = |i| {
            let r = self.tdcall(Regs::call(7, 0, first + i));
            assert_eq!(r.rax, 0, "{r:x?}");
            r.r8
        };
        (0..n).map(read).collect()
    }

    pub fn fork(&self) -> Self {
        Vm {
            m: self.m.fork(self.m.machine.duplicate()),
        }
    }

    pub fn create(&self, tdr: u64, hkid: u64) {
        self.ok(0, Regs::call(leaf::MNG_CREATE, tdr, hkid));
        self.ok(0, Regs::call(leaf::MNG_KEY_CONFIG, tdr, 0));
    }

    pub fn params(&self, attributes: u64) {
        let w = [attributes, 3, 8, 0x1E, 0, 100];
        for i in 0..128 {
            let v = w.get(i as usize).copied().unwrap_or(0);
            self.m.machine.write(PARAMS + 8 * i, v);
        }
    }

    pub fn call(&self, lp: usize, regs: Regs) -> Regs {
        let mut r = regs;
        assert_eq!(self.m.seamcall(lp, &mut r), Outcome::Done, "{regs:x?}");
        r
    }

    pub fn ok(&self, lp: usize, regs: Regs) -> Regs {
        let r = self.call(lp, regs);
        assert_eq!(r.rax, 0, "{regs:x?} -> {r:x?}");
        r
    }

    pub fn block(&self, gpa: u64) {
        self.ok(0, Regs::call(leaf::MEM_RANGE_BLOCK, gpa, TDR));
    }
    pub fn track(&self) {
        self.ok(0, Regs::call(leaf::MEM_TRACK, TDR, 0));
    }
    pub fn relocate(&self, gpa: u64, to: u64) -> Regs {
        self.call(0, Regs::call3(leaf::MEM_PAGE_RELOCATE, gpa, TDR, to))
    }
    pub fn enter(&self, v: u64) {
        let mut r = Regs::call(leaf::VP_ENTER, VCPU + 0x1_0000 * v, 0);
        let lp = 1 + v as usize;
        assert_eq!(self.m.seamcall(lp, &mut r), Outcome::Entered, "{r:x?}");
    }
    pub fn exit(&self, v: u64) -> Regs {
        let e = GuestEvent::Interrupt { rip_adv: 64 };
        match self.m.guest_event(1 + v as usize, e) {
            GuestOutcome::Exit(r) => r,
            o => panic!("{o:?}"),
        }
    }
    pub fn accept(&self, v: u64, gpa: u64) -> GuestOutcome {
        self.m
            .guest_event(1 + v as usize, GuestEvent::Accept { gpa })
    }
    pub fn read(&self, v: u64, gpa: u64) -> GuestOutcome {
        self.m.guest_event(1 + v as usize, GuestEvent::Read { gpa })
    }
    pub fn write(&self, v: u64, gpa: u64, value: u64) -> GuestOutcome {
        self.m
            .guest_event(1 + v as usize, GuestEvent::Write { gpa, value })
    }
    pub fn debug_read(&self, gpa: u64) -> u64 {
        self.ok(0, Regs::call(leaf::MEM_RD, gpa, TDR)).r8
    }
    pub fn state(&self, gpa: u64) -> u64 {
        self.ok(0, Regs::call(leaf::MEM_SEPT_RD, gpa, TDR)).rdx >> 8 & 0xFF
    }
}

pub const R8: u32 = op::R8;
