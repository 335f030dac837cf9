// SPDX-License-Identifier: GPL-2.0
//! A guest for front ends that cannot execute guest instructions.
//!
//! It is an interpreter of commands that work on private memory: accept it,
//! fill it, verify it, keep it busy. It takes a command as the result of its
//! last TDG.VP.VMCALL, so in the registers of TDH.VP.ENTER, and reports by the
//! next one. All it does goes through the S-EPT and the key of its TD, and it
//! exits for the reasons, and with the registers, for which any guest does.
//!
//! The page that it works on is translated once, like by a CPU with a TLB: the
//! host may block it meanwhile, but not move it before the vCPU has left.
//!
//! What a host has to know is in `kernel/tdxemu_guest.h`. The program's own
//! registers are in the TDVPR page.

use crate::leaf::guest::{GuestEvent, GuestOutcome, Vcpu};
use crate::mem::{Machine, PAGE};
use crate::module::Module;
use crate::regs::Regs;
use crate::status::{class, PAGE_ALREADY_ACCEPTED, SUCCESS};
use crate::td::tdvps;

/// R10 of every TDG.VP.VMCALL of the program.
pub const VMCALL: u64 = 0x554D_4558_4454;
/// The registers it passes: R10 to R15.
pub const VMCALL_MASK: u64 = 0xFC00;
/// R14 of a report without an address.
pub const NO_GPA: u64 = u64::MAX;

/// The commands (R12).
#[allow(missing_docs)]
pub mod command {
    pub const NONE: u64 = 0;
    pub const ACCEPT: u64 = 1;
    pub const FILL: u64 = 2;
    pub const VERIFY: u64 = 3;
    pub const TOUCH: u64 = 4;
    pub const SPIN: u64 = 5;
    pub const STAMP: u64 = 6;
}

/// Why a command ended (R15 of the report), besides statuses of TDCALL leaves.
#[allow(missing_docs)]
pub mod result {
    pub const OK: u64 = 0;
    pub const INVALID: u64 = 1;
    pub const VIRT_EXCEPTION: u64 = 2;
}

/// What FILL writes to the word at `gpa`.
#[must_use]
pub const fn word(seed: u64, gpa: u64) -> u64 {
    (seed ^ gpa).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// What the program did between entry and exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The command it worked on.
    pub command: u64,
    /// Pages.
    pub pages: u64,
    /// Words (of ACCEPT: pages) that were not as expected.
    pub wrong: u64,
}

/// What the program is about to do when the vCPU is entered.
mod phase {
    /// Its first instruction.
    pub(super) const START: u64 = 0;
    /// It gets the result of TDG.VP.VMCALL.
    pub(super) const WAITING: u64 = 1;
    /// It is in the middle of a command.
    pub(super) const WORKING: u64 = 2;
}

const WORDS: usize = 11;

/// The program's registers.
#[derive(Clone, Copy)]
struct Program {
    phase: u64,
    command: u64,
    gpa: u64,
    pages: u64,
    /// Seed, or number of passes.
    arg: u64,
    /// The page that is next.
    next: u64,
    /// Passes done.
    pass: u64,
    done: u64,
    wrong: u64,
    first: u64,
    result: u64,
}

impl Program {
    fn from_words(w: [u64; WORDS]) -> Self {
        let [phase, command, gpa, pages, arg, next, pass, done, wrong, first, result] = w;
        Program {
            phase,
            command,
            gpa,
            pages,
            arg,
            next,
            pass,
            done,
            wrong,
            first,
            result,
        }
    }

    fn words(&self) -> [u64; WORDS] {
        [
            self.phase,
            self.command,
            self.gpa,
            self.pages,
            self.arg,
            self.next,
            self.pass,
            self.done,
            self.wrong,
            self.first,
            self.result,
        ]
    }

    /// A command in the registers of TDH.VP.ENTER.
    fn command(entry: &Regs) -> Self {
        let refused = entry.r10 != 0;
        Program {
            phase: phase::WORKING,
            command: if refused { command::NONE } else { entry.r12 },
            gpa: entry.r13,
            pages: entry.r14,
            arg: entry.r15,
            next: 0,
            pass: 0,
            done: 0,
            wrong: 0,
            first: NO_GPA,
            result: result::OK,
        }
    }

    fn nothing() -> Self {
        Program {
            result: result::OK,
            ..Program::command(&Regs::default())
        }
    }

    /// Whether the command runs over its pages more than once.
    fn repeats(&self) -> bool {
        matches!(self.command, command::TOUCH | command::STAMP)
    }

    fn finished(&self) -> bool {
        let passes = self.arg != 0 && self.pass >= self.arg;
        self.result != result::OK
            || match self.command {
                command::NONE => true,
                command::SPIN => passes,
                _ if self.pages == 0 => true,
                _ if self.repeats() => passes,
                _ => self.next >= self.pages,
            }
    }

    fn page(&self) -> u64 {
        self.gpa + self.next * PAGE
    }

    /// A page is done; `wrong` words differed, the first at `first`.
    fn advance(&mut self, work: &mut Work, wrong: u64, first: u64) {
        if wrong != 0 && self.wrong == 0 {
            self.first = first;
        }
        self.wrong = self.wrong.wrapping_add(wrong);
        self.done = self.done.wrapping_add(1);
        self.next += 1;
        if self.next == self.pages && self.repeats() {
            self.next = 0;
            self.pass = self.pass.wrapping_add(1);
        }
        work.wrong += wrong;
        work.pages += 1;
    }

    fn report(&self) -> Regs {
        Regs {
            rcx: VMCALL_MASK,
            r10: VMCALL,
            r11: self.command,
            r12: self.done,
            r13: self.wrong,
            r14: self.first,
            r15: self.result,
            ..Regs::default()
        }
    }
}

impl<M: Machine> Module<M> {
    /// Runs the program in the vCPU that has just entered the guest on `lp`
    /// with the registers `entry`, until it exits. `stop` is asked after every
    /// page whether an interrupt ends the run.
    ///
    /// The first part of the result is [`GuestOutcome::Exit`], or
    /// [`GuestOutcome::None`] if the module died or no vCPU is there.
    pub fn run_program(
        &self,
        lp: usize,
        entry: &Regs,
        mut stop: impl FnMut() -> bool,
    ) -> (GuestOutcome, Work) {
        let mut work = Work::default();
        let Some(v) = self.running(lp) else {
            return (GuestOutcome::None, work);
        };
        let mut p = self.program_load(&v);
        match p.phase {
            phase::START => p = Program::nothing(),
            phase::WORKING => {}
            _ => {
                p = Program::command(entry);
                if !self.program_range_ok(&v, &p) {
                    p.result = result::INVALID;
                }
            }
        }
        work.command = p.command;
        loop {
            if p.finished() {
                p.phase = phase::WAITING;
                self.program_save(&v, &p);
                let regs = p.report();
                return (self.guest_event(lp, GuestEvent::VmCall { regs }), work);
            }
            if let Err(exit) = self.program_step(&v, &mut p, &mut work) {
                return (exit, work);
            }
            if stop() {
                if p.command == command::SPIN {
                    p.pass = p.pass.wrapping_add(1);
                }
                self.program_save(&v, &p);
                let rip_adv = work.pages;
                return (
                    self.guest_event(lp, GuestEvent::Interrupt { rip_adv }),
                    work,
                );
            }
        }
    }

    /// One page of the command. The error is an exit.
    fn program_step(&self, v: &Vcpu, p: &mut Program, work: &mut Work) -> Result<(), GuestOutcome> {
        let page = p.page();
        match p.command {
            command::SPIN => {
                core::hint::spin_loop();
                return Ok(());
            }
            command::ACCEPT => return self.program_accept(v, p, work),
            _ => {}
        }
        let write = matches!(p.command, command::FILL | command::STAMP);
        self.program_save(v, p);
        let pa = match self.guest_page(v, page, write, work.pages) {
            Ok(pa) => pa,
            Err(GuestOutcome::VirtException(_)) => {
                p.result = result::VIRT_EXCEPTION;
                return Ok(());
            }
            Err(exit) => return Err(exit),
        };
        let expect = |off| word(p.arg, page + off);
        let lost = |_| self.dead_td(v, 0, 0);
        let (wrong, off) = match p.command {
            command::FILL => {
                self.guest_fill(v, pa, expect);
                (0, 0)
            }
            command::VERIFY => self.guest_compare(v, pa, expect).map_err(lost)?,
            _ => {
                let found = self.rd_checked(v.td.hkid, pa).map_err(lost)?;
                if p.command == command::STAMP {
                    self.wr_sealed(v.td.hkid, pa, p.pass + 1);
                    (u64::from(p.pass != 0 && found != p.pass), 0)
                } else {
                    (0, 0)
                }
            }
        };
        p.advance(work, wrong, page + off);
        Ok(())
    }

    fn program_accept(
        &self,
        v: &Vcpu,
        p: &mut Program,
        work: &mut Work,
    ) -> Result<(), GuestOutcome> {
        let gpa = p.page();
        self.program_save(v, p);
        match self.guest_event(v.lp, GuestEvent::Accept { gpa }) {
            GuestOutcome::InGuest(SUCCESS) => p.advance(work, 0, 0),
            GuestOutcome::InGuest(status) if class(status) == PAGE_ALREADY_ACCEPTED => {
                p.advance(work, 1, gpa);
            }
            // The entry is locked: again.
            GuestOutcome::InGuest(status) if Self::guest_busy(status) => {}
            GuestOutcome::InGuest(status) => p.result = status,
            exit => return Err(exit),
        }
        Ok(())
    }

    fn program_range_ok(&self, v: &Vcpu, p: &Program) -> bool {
        if matches!(p.command, command::NONE | command::SPIN) {
            return true;
        }
        let last = p.pages.checked_mul(PAGE).and_then(|n| p.gpa.checked_add(n));
        p.command <= command::STAMP
            && p.gpa % PAGE == 0
            && last.is_some_and(|end| p.pages == 0 || self.is_private(&v.td, end - 1))
    }

    fn program_load(&self, v: &Vcpu) -> Program {
        let mut words = [0; WORDS];
        for (at, w) in (tdvps::PROGRAM..).step_by(8).zip(&mut words) {
            *w = self.vget(v, at);
        }
        Program::from_words(words)
    }

    fn program_save(&self, v: &Vcpu, p: &Program) {
        for (at, w) in (tdvps::PROGRAM..).step_by(8).zip(p.words()) {
            self.vset(v, at, w);
        }
    }
}
