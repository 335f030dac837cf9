// SPDX-License-Identifier: GPL-2.0
//! A host that owns the model's test TD and moves its pages.

use std::cell::{Cell, RefCell};

use tdx_emu_model::regs::{leaf, leaf_name};
use tdx_emu_model::{GuestEvent, GuestOutcome, Outcome as Answered, PhysMem, Regs};

use crate::protocol::{self, Outcome, Td, TdLost};
use crate::status::Answer;

#[path = "../../model/tests/common/mod.rs"]
pub(crate) mod common;

use common::{Vm, HKID, POOL, TDR, VCPU};

/// LPs of the two vCPUs.
pub(crate) const VCPUS: [usize; 2] = [1, 2];

/// Pages of the TD on their way: GPA to frame number in the pool.
pub(crate) struct Host<'a> {
    pub vm: &'a Vm,
    moves: Vec<(u64, u64, u64)>,
    held: Cell<bool>,
    /// What was done, in order.
    pub log: RefCell<Vec<&'static str>>,
    /// vCPUs enter again right after a kick, which is their right.
    pub eager: bool,
    /// From this call of this leaf on there is no module: what every call gives then.
    pub gone: Option<(u16, usize, u64)>,
}

impl<'a> Host<'a> {
    /// Each move: GPA, old and new frame.
    pub(crate) fn new(vm: &'a Vm, moves: &[(u64, u64, u64)]) -> Self {
        Host {
            vm,
            moves: moves.to_vec(),
            held: Cell::new(false),
            log: RefCell::default(),
            eager: true,
            gone: None,
        }
    }

    pub(crate) fn run(&self, runnable: bool) -> (Vec<Outcome>, Result<(), TdLost>) {
        let mut outcomes = vec![Outcome::Refused; self.moves.len()];
        let result = protocol::relocate(self, runnable, &mut outcomes);
        assert!(!self.held.get(), "vCPUs are held for ever");
        (outcomes, result)
    }

    /// How often something was done.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.log.borrow().iter().filter(|x| **x == what).count()
    }

    /// SEAMCALLs that were made with vCPUs held.
    pub(crate) fn calls_while_held(&self) -> usize {
        let log = self.log.borrow();
        let start = log.iter().position(|x| *x == "hold");
        start.map_or(0, |start| log.len() - start - 1)
    }

    fn call(&self, regs: Regs) -> Answer {
        let name = leaf_name(regs.rax as u16).expect("a leaf of the model");
        self.log.borrow_mut().push(name);
        if let Some(status) = self.without_module() {
            // No instruction has written to the registers.
            return Answer {
                status,
                rcx: regs.rcx,
                rdx: regs.rdx,
            };
        }
        let mut r = regs;
        if self.vm.m.seamcall(0, &mut r) != Answered::Done {
            r.rax = 0x8000_ff00_ffff_0000;
        }
        Answer {
            status: r.rax,
            rcx: r.rcx,
            rdx: r.rdx,
        }
    }

    /// What calls give if the module is gone by now.
    fn without_module(&self) -> Option<u64> {
        let (leaf, nth, status) = self.gone?;
        let name = leaf_name(leaf).expect("a leaf of the model");
        (self.count(name) >= nth).then_some(status)
    }

    fn frame(number: u64) -> u64 {
        POOL + number * 0x1000
    }

    /// The vCPUs that are in the guest.
    pub(crate) fn inside(&self) -> Vec<usize> {
        let inside = |lp: &usize| self.vm.m.in_guest(*lp).is_some();
        VCPUS.into_iter().filter(inside).collect()
    }

    /// A vCPU enters the guest, if the module lets it.
    pub(crate) fn enter(vm: &Vm, lp: usize) -> bool {
        let tdvpr = VCPU + 0x1_0000 * (lp as u64 - 1);
        let mut r = Regs::call(leaf::VP_ENTER, tdvpr, 0);
        vm.m.seamcall(lp, &mut r) == Answered::Entered
    }

    fn force_out(&self) -> Vec<usize> {
        let inside = self.inside();
        for lp in &inside {
            let event = GuestEvent::Interrupt { rip_adv: 64 };
            assert!(matches!(
                self.vm.m.guest_event(*lp, event),
                GuestOutcome::Exit(_) | GuestOutcome::None
            ));
        }
        inside
    }
}

impl Td for Host<'_> {
    fn block(&self, nr: usize) -> Answer {
        self.call(Regs::call(leaf::MEM_RANGE_BLOCK, self.moves[nr].0, TDR))
    }
    fn track(&self) -> Answer {
        self.call(Regs::call(leaf::MEM_TRACK, TDR, 0))
    }
    fn relocate(&self, nr: usize) -> Answer {
        let (gpa, _, to) = self.moves[nr];
        self.call(Regs::call3(
            leaf::MEM_PAGE_RELOCATE,
            gpa,
            TDR,
            Self::frame(to),
        ))
    }
    fn unblock(&self, nr: usize) -> Answer {
        self.call(Regs::call(leaf::MEM_RANGE_UNBLOCK, self.moves[nr].0, TDR))
    }
    fn wbinvd(&self, nr: usize) -> Answer {
        let page = self.vm.m.config.with_hkid(self.old_page(nr), HKID as u16);
        self.call(Regs::call(leaf::PHYMEM_PAGE_WBINVD, page, 0))
    }
    fn old_page(&self, nr: usize) -> u64 {
        Self::frame(self.moves[nr].1)
    }
    fn kick(&self) {
        self.log.borrow_mut().push("kick");
        for lp in self.force_out() {
            if self.eager {
                Self::enter(self.vm, lp);
            }
        }
    }
    fn hold(&self) {
        self.log.borrow_mut().push("hold");
        assert!(!self.held.replace(true), "held twice");
        self.force_out();
    }
    fn release(&self) {
        assert!(self.held.replace(false), "not held");
    }
}

/// What the guest finds at a GPA that PAGE.ADD has filled, through vCPU 0.
pub(crate) fn check_content(vm: &Vm, gpa: u64) {
    let lp = VCPUS[0];
    if vm.m.in_guest(lp).is_none() {
        assert!(Host::enter(vm, lp));
    }
    for word in [0, 8, 0xff8] {
        let event = GuestEvent::Read { gpa: gpa + word };
        let expected = (gpa >> 12) << 32 | word;
        assert_eq!(
            vm.m.guest_event(lp, event),
            GuestOutcome::InGuest(expected),
            "content of {gpa:#x}"
        );
    }
}

/// Frame that the S-EPT has for a GPA, and the public state of the entry.
pub(crate) fn entry(vm: &Vm, gpa: u64) -> (u64, u64) {
    let mut r = Regs::call(leaf::MEM_SEPT_RD, gpa, TDR);
    // On a TD that is lost the module does not answer; its entry can be looked at.
    if vm.m.seamcall(0, &mut r) == Answered::Done && r.rax == 0 {
        (
            ((r.rcx & 0x000f_ffff_ffff_f000) - POOL) >> 12,
            r.rdx >> 8 & 0xff,
        )
    } else {
        let (raw, _) = vm.m.sept_view(TDR, gpa, 0);
        (((raw & 0x000f_ffff_ffff_f000) - POOL) >> 12, 0xff)
    }
}

/// The host uses a page that it believes to be its own.
pub(crate) fn scribble(vm: &Vm, frame: u64) {
    for word in (0..4096).step_by(8) {
        vm.m.machine.write(POOL + frame * 0x1000 + word, !word);
    }
}
