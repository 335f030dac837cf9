// SPDX-License-Identifier: GPL-2.0
//! The guest's side: what can happen while a vCPU is in the guest.

use crate::locks::Side;
use crate::mem::{Machine, PAGE};
use crate::module::Module;
use crate::pamt::is_busy;
use crate::regs::{op, tdcall, Regs};
use crate::sept::{self, State};
use crate::sept_l2;
use crate::status::{
    class, with_op, Res, EXIT_REASON_EPT_VIOLATION, EXIT_REASON_INTERRUPT, EXIT_REASON_TDCALL,
    HOST_PRIORITY_BUSY_TIMEOUT, NON_RECOVERABLE_TD_NON_ACCESSIBLE, OPERAND_BUSY,
    OPERAND_BUSY_HOST_PRIORITY, OPERAND_INVALID, PAGE_ALREADY_ACCEPTED, PAGE_SIZE_MISMATCH,
    SUCCESS,
};
use crate::td::{last_exit, td_ctls, tdcs, tdr, tdvps, vcpu, Td};
use crate::walk::{mapping, Locked, Walk};

/// An event in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// An external interrupt arrives after the guest has advanced.
    Interrupt {
        /// Bytes the instruction pointer moved since the last exit.
        rip_adv: u64,
    },
    /// TDG.MEM.PAGE.ACCEPT.
    Accept {
        /// RCX: GPA and level.
        gpa: u64,
    },
    /// TDG.MEM.PAGE.ATTR.RD.
    AttrRead {
        /// GPA.
        rcx: u64,
    },
    /// TDG.MEM.PAGE.ATTR.WR.
    AttrWrite {
        /// GPA and level.
        rcx: u64,
        /// New attributes.
        rdx: u64,
        /// Attribute mask and flags.
        r8: u64,
    },
    /// The CPU reports an EPT violation.
    EptViolation {
        /// The address.
        gpa: u64,
        /// Exit qualification.
        qual: u64,
        /// Bytes the instruction pointer moved since the last exit.
        rip_adv: u64,
    },
    /// TDG.VP.VMCALL.
    VmCall {
        /// The guest's registers; RCX selects those the host gets.
        regs: Regs,
    },
    /// Another VM exit that the host gets to see: an exception or NMI, an
    /// interrupt that was acknowledged, a shutdown of the vCPU.
    Exit {
        /// Basic exit reason.
        reason: u16,
        /// Exit qualification.
        qual: u64,
        /// Exit interruption information.
        intr_info: u64,
    },
    /// The guest consumes a line of its memory that somebody else wrote.
    Poison,
    /// The guest reads the 64-bit word at a private GPA.
    Read {
        /// The address.
        gpa: u64,
    },
    /// The guest writes the 64-bit word at a private GPA.
    Write {
        /// The address.
        gpa: u64,
        /// The new content.
        value: u64,
    },
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestOutcome {
    /// The TD exits; these are the registers the host sees.
    Exit(Regs),
    /// The guest goes on, with this in RAX (for [`GuestEvent::Read`]: the
    /// content).
    InGuest(u64),
    /// The guest goes on with a virtualization exception, for this GPA.
    VirtException(u64),
    /// No vCPU is in the guest on this LP, or the module is dead.
    None,
}

/// Extended exit qualification types.
pub(crate) mod eeq {
    pub const ACCEPT: u64 = 1;
    pub const GPA_DETAILS: u64 = 2;
    pub const ATTR_WR: u64 = 5;
    pub const PENDING: u64 = 6;
}

/// Why a guest leaf did not return to the guest.
pub(super) enum Stop {
    /// RAX for the guest.
    Status(u64),
    /// An EPT violation exit: qualification, extended qualification.
    Exit { gpa: u64, qual: u64, ext: u64 },
    /// Interrupted: the guest repeats the call.
    Again,
    /// The module died.
    Dead(u64),
}

impl From<u64> for Stop {
    fn from(status: u64) -> Self {
        if status == crate::status::INTERNAL_FATAL {
            Stop::Dead(status)
        } else {
            Stop::Status(status)
        }
    }
}

/// The vCPU on a logical processor.
#[derive(Clone, Copy)]
pub(crate) struct Vcpu {
    pub lp: usize,
    pub td: Td,
    pub tdvpr: u64,
}

/// EPT violations without progress after which GPAs are logged.
const EPF_THRESHOLD: u64 = 6;
/// What RCX of TDG.VP.VMCALL may select: all but RAX, RCX, RSP and RBP.
const VMCALL_SELECTABLE: u64 = 0xFFFF_FFCC;
/// Instruction length of TDCALL.
const TDCALL_LEN: u64 = 4;

impl<M: Machine> Module<M> {
    /// The TDR and TDVPR of the vCPU that is in the guest on `lp`.
    pub fn in_guest(&self, lp: usize) -> Option<(u64, u64)> {
        let me = self.g.lp.get(lp)?;
        let tdvpr = me.tdvpr.get();
        (tdvpr != 0).then(|| (me.tdr.get(), tdvpr))
    }

    /// The vCPU on `lp`, if the guest can go on there.
    pub(crate) fn running(&self, lp: usize) -> Option<Vcpu> {
        let (tdr, tdvpr) = self.in_guest(lp)?;
        if self.is_dead() {
            return None;
        }
        if let Err(e) = self.tdr_sane(tdr) {
            self.died(e);
            return None;
        }
        Some(Vcpu {
            lp,
            td: self.td_raw(tdr),
            tdvpr,
        })
    }

    /// Something happens in the guest that runs on `lp`.
    pub fn guest_event(&self, lp: usize, event: GuestEvent) -> GuestOutcome {
        let Some(v) = self.running(lp) else {
            return GuestOutcome::None;
        };
        let tdr = v.td.tdr;
        match event {
            GuestEvent::Poison => return self.dead_td(&v, 0, 0),
            GuestEvent::Read { gpa } => return self.guest_access(&v, gpa, None),
            GuestEvent::Write { gpa, value } => return self.guest_access(&v, gpa, Some(value)),
            _ => {}
        }
        let (reason, rip_adv) = match event {
            GuestEvent::Interrupt { rip_adv } => (EXIT_REASON_INTERRUPT, rip_adv),
            GuestEvent::EptViolation { rip_adv, .. } => (EXIT_REASON_EPT_VIOLATION, rip_adv),
            GuestEvent::Exit { reason, .. } => (reason.into(), 0),
            _ => (EXIT_REASON_TDCALL, 0),
        };
        self.vset(&v, tdvps::LAST_EXIT_TSC, self.machine.tsc(lp));
        let rip = self.vget(&v, tdvps::RIP).wrapping_add(rip_adv);
        self.vset(&v, tdvps::RIP, rip);
        if self.tdr_rd(tdr, tdr::FATAL) != 0 {
            let qual = match event {
                GuestEvent::EptViolation { qual, .. } | GuestEvent::Exit { qual, .. } => qual,
                _ => 0,
            };
            return self.dead_td(&v, reason, qual);
        }
        if self.vget(&v, tdvps::RIP) != self.g.lp[lp].rip_on_entry.get() {
            self.vset(&v, tdvps::EPF_LOGGED, 0);
            self.vset(&v, tdvps::EPF_COUNT, 0);
        }
        match event {
            GuestEvent::EptViolation { gpa, qual, .. } => self.ept_violation(&v, gpa, qual),
            GuestEvent::Accept { gpa } => {
                let r = self.page_accept(&v, gpa);
                self.tdcall_end(&v, tdcall::MEM_PAGE_ACCEPT, r)
            }
            GuestEvent::AttrRead { rcx } => {
                let r = self.page_attr_rd(&v, rcx);
                self.tdcall_end(&v, tdcall::MEM_PAGE_ATTR_RD, r)
            }
            GuestEvent::AttrWrite { rcx, rdx, r8 } => {
                let r = self.page_attr_wr(&v, rcx, rdx, r8);
                self.tdcall_end(&v, tdcall::MEM_PAGE_ATTR_WR, r)
            }
            GuestEvent::VmCall { regs } => self.vmcall(&v, &regs),
            GuestEvent::Exit {
                qual, intr_info, ..
            } => self.other_exit(&v, reason, qual, intr_info),
            _ => self.td_exit(&v, reason, 0, 0, 0, last_exit::ASYNC_FAULT),
        }
    }

    pub(crate) fn vget(&self, v: &Vcpu, field: u64) -> u64 {
        self.vp_rd(&v.td, v.tdvpr, field)
    }
    pub(crate) fn vset(&self, v: &Vcpu, field: u64, value: u64) {
        self.vp_wr(&v.td, v.tdvpr, field, value);
    }

    /// Lets go of the TDR and TDVPR, which were held since the entry.
    fn leave(&self, v: &Vcpu) {
        use crate::locks::{hp_release, Mode};
        let down = |at| self.pamt_step(at, |w| (hp_release(w, Mode::Shared), ()));
        if let Some(b) = self.pamt_block(v.td.tdr) {
            down(b.0[0]);
        }
        if let Some(b) = self.pamt_block(v.tdvpr) {
            for at in b.0 {
                down(at);
            }
        }
        self.g.lp[v.lp].tdvpr.set(0);
    }

    pub(super) fn td_exit(
        &self,
        v: &Vcpu,
        rax: u64,
        qual: u64,
        ext: u64,
        gpa: u64,
        how: u64,
    ) -> GuestOutcome {
        self.vset(v, tdvps::STATE, vcpu::READY);
        self.vset(v, tdvps::LAST_TD_EXIT, how);
        self.epoch_leave(&v.td, v.tdvpr);
        self.leave(v);
        GuestOutcome::Exit(Regs {
            rax,
            rcx: qual,
            rdx: ext,
            r8: gpa,
            ..Regs::default()
        })
    }

    /// The TD cannot run any more. The vCPU's epoch stays counted.
    pub(crate) fn dead_td(&self, v: &Vcpu, reason: u64, qual: u64) -> GuestOutcome {
        self.tdr_wr(v.td.tdr, tdr::FATAL, 1);
        self.leave(v);
        GuestOutcome::Exit(Regs {
            rax: NON_RECOVERABLE_TD_NON_ACCESSIBLE | reason,
            rcx: qual,
            ..Regs::default()
        })
    }

    /// TDG.VP.VMCALL: an exit that gives the host the registers that the guest
    /// selects. RBP stays the guest's.
    fn vmcall(&self, v: &Vcpu, guest: &Regs) -> GuestOutcome {
        let mask = guest.rcx;
        if mask & !VMCALL_SELECTABLE != 0 {
            let bad = Stop::Status(with_op(OPERAND_INVALID, op::RCX));
            return self.tdcall_end(v, tdcall::VP_VMCALL, Err(bad));
        }
        self.vset(v, tdvps::GUEST_RAX, SUCCESS);
        let rip = self.vget(v, tdvps::RIP).wrapping_add(TDCALL_LEN);
        self.vset(v, tdvps::RIP, rip);
        let exit = self.td_exit(v, EXIT_REASON_TDCALL, mask, 0, 0, last_exit::TDVMCALL);
        let GuestOutcome::Exit(mut regs) = exit else {
            return exit;
        };
        let pass = |bit: u32, value| if mask >> bit & 1 != 0 { value } else { 0 };
        regs.rdx = pass(2, guest.rdx);
        regs.rbx = pass(3, guest.rbx);
        regs.rsi = pass(6, guest.rsi);
        regs.rdi = pass(7, guest.rdi);
        regs.r8 = pass(8, guest.r8);
        regs.r9 = pass(9, guest.r9);
        regs.r10 = pass(10, guest.r10);
        regs.r11 = pass(11, guest.r11);
        regs.r12 = pass(12, guest.r12);
        regs.r13 = pass(13, guest.r13);
        regs.r14 = pass(14, guest.r14);
        regs.r15 = pass(15, guest.r15);
        GuestOutcome::Exit(regs)
    }

    fn violation_exit(&self, v: &Vcpu, gpa: u64, qual: u64, ext: u64) -> GuestOutcome {
        self.td_exit(
            v,
            EXIT_REASON_EPT_VIOLATION,
            qual & !0x1F80,
            ext,
            gpa & !0xFFF,
            last_exit::ASYNC_FAULT,
        )
    }

    fn ept_violation(&self, v: &Vcpu, gpa: u64, qual: u64) -> GuestOutcome {
        let mut ext = 0;
        // Of what the CPU reports, only the SHARED bit counts.
        if gpa >> self.shared_bit(&v.td) & 1 == 0 {
            let w = match self.walk(&v.td, 0, gpa, 0) {
                Ok(w) => w,
                Err(e) => return self.died(e),
            };
            if sept::state(w.raw).acceptable() {
                if self.tdcs_rd(&v.td, tdcs::TD_CTLS) & td_ctls::PENDING_VE_DISABLE == 0 {
                    return GuestOutcome::VirtException(gpa);
                }
                ext = eeq::PENDING;
            }
            self.log_violation(v, gpa);
        }
        self.violation_exit(v, gpa, qual, ext)
    }

    /// Counts violations without progress, and remembers their addresses once
    /// there are too many.
    fn log_violation(&self, v: &Vcpu, gpa: u64) {
        let seen = self.vget(v, tdvps::EPF_COUNT).min(EPF_THRESHOLD);
        if seen < EPF_THRESHOLD {
            self.vset(v, tdvps::EPF_COUNT, seen + 1);
            return;
        }
        let n = self.vget(v, tdvps::EPF_LOGGED).min(tdvps::EPF_LIST_SIZE);
        let slot = |i: u64| tdvps::EPF_LIST + 8 * i;
        if n < tdvps::EPF_LIST_SIZE && (0..n).all(|i| self.vget(v, slot(i)) != gpa) {
            self.vset(v, slot(n), gpa);
            self.vset(v, tdvps::EPF_LOGGED, n + 1);
        }
    }

    pub(crate) fn died(&self, _status: u64) -> GuestOutcome {
        self.g.dead.set(1);
        GuestOutcome::None
    }

    /// The way back from a TDCALL.
    pub(super) fn tdcall_end(&self, v: &Vcpu, leaf: u16, r: Result<(), Stop>) -> GuestOutcome {
        let mut rax = match r {
            Ok(()) => SUCCESS,
            Err(Stop::Status(s)) => s,
            Err(Stop::Exit { gpa, qual, ext }) => return self.violation_exit(v, gpa, qual, ext),
            Err(Stop::Again) => {
                self.vset(v, tdvps::HP_BUSY, 0);
                return GuestOutcome::InGuest(leaf.into());
            }
            Err(Stop::Dead(s)) => return self.died(s),
        };
        if class(rax) == OPERAND_BUSY_HOST_PRIORITY {
            rax = OPERAND_BUSY | rax & 0xFFFF_FFFF;
            let now = self.machine.tsc(v.lp);
            if self.vget(v, tdvps::HP_BUSY) == 0 {
                self.vset(v, tdvps::HP_BUSY, 1);
                self.vset(v, tdvps::HP_BUSY_START, now);
            } else if now.wrapping_sub(self.vget(v, tdvps::HP_BUSY_START))
                >= self.tdcs_rd(&v.td, tdcs::HP_LOCK_TIMEOUT)
            {
                self.vset(v, tdvps::HP_BUSY, 0);
                self.vset(v, tdvps::GUEST_RAX, rax);
                let trap = last_exit::ASYNC_TRAP;
                let rip = self.vget(v, tdvps::RIP).wrapping_add(TDCALL_LEN);
                self.vset(v, tdvps::RIP, rip);
                return self.td_exit(v, HOST_PRIORITY_BUSY_TIMEOUT, 0, 0, 0, trap);
            }
        } else {
            self.vset(v, tdvps::HP_BUSY, 0);
        }
        self.vset(v, tdvps::GUEST_RAX, rax);
        let rip = self.vget(v, tdvps::RIP).wrapping_add(TDCALL_LEN);
        self.vset(v, tdvps::RIP, rip);
        GuestOutcome::InGuest(rax)
    }

    /// An EPT violation exit that a guest leaf caused.
    pub(super) fn leaf_violation(gpa: u64, level: u8, w: Walk, ty: u64) -> Stop {
        let st = sept::try_state(w.raw).map_or(0, State::public);
        let details = u64::from(level)
            | u64::from(w.level) << 3
            | st << 6
            | u64::from(sept::is_leaf(w.raw)) << 14;
        Stop::Exit {
            gpa,
            qual: 2 | (w.raw & sept::RWX) << 3,
            ext: ty | details << 32,
        }
    }

    /// Takes an entry lock for the guest.
    pub(super) fn guest_lock(&self, v: &Vcpu, at: u64) -> Result<Locked<'_, M>, Stop> {
        self.entry_lock(v.td.hkid, at, Side::Guest)
            .map_err(|e| Stop::from(with_op(e, op::RCX)))
    }

    pub(super) fn page_accept(&self, v: &Vcpu, operand: u64) -> Result<(), Stop> {
        let bad = Stop::Status(with_op(OPERAND_INVALID, op::RCX));
        let Some((gpa, level)) = mapping(operand, 0, 1) else {
            return Err(bad);
        };
        if !self.is_private(&v.td, gpa) {
            return Err(bad);
        }
        let w = self.walk(&v.td, 0, gpa, level)?;
        if w.level != level {
            if sept::state(w.raw).guest_accessible() {
                return Err(Stop::Status(PAGE_ALREADY_ACCEPTED | u64::from(w.level)));
            }
            return Err(Self::leaf_violation(gpa, level, w, eeq::ACCEPT));
        }
        // Whether it is a leaf is decided before the lock is taken.
        let was_leaf = sept::is_leaf(w.raw);
        let lock = self.guest_lock(v, w.at)?;
        let mut e = lock.get();
        let st = sept::state(e);
        if sept::try_state(e) != Some(State::Free) && !was_leaf {
            return Err(Stop::Status(PAGE_SIZE_MISMATCH | u64::from(level)));
        }
        if st.guest_accessible() {
            return Err(Stop::Status(PAGE_ALREADY_ACCEPTED | u64::from(level)));
        }
        if !sept::guest_allowed(tdcall::MEM_PAGE_ACCEPT, st) {
            let now = Walk { raw: e, ..w };
            return Err(Self::leaf_violation(gpa, level, now, eeq::ACCEPT));
        }
        let chunks = 1 << (9 * u64::from(level));
        self.in_tdmr(e & sept::HPA, w.at)?;
        loop {
            // The address bits of a 2 MiB entry hold the progress.
            self.zero_page(v.td.hkid, e & sept::HPA);
            if level == 0 || (e & sept::ACCEPT) / PAGE == chunks - 1 {
                break;
            }
            e += PAGE;
            if self.machine.interrupt_pending(v.lp) {
                lock.set(e);
                return Err(Stop::Again);
            }
        }
        if level > 0 {
            e &= !sept::ACCEPT;
        }
        let next = if st == State::Pending {
            State::Mapped
        } else {
            State::ExportedDirty
        };
        e = sept::with_state(e | sept::RWX, next);
        for vm in 1..=self.l2_vms(&v.td) {
            if sept::aliased(e, vm) {
                let alias = self.l2_entry(&v.td, vm, gpa, level)?;
                self.wr(v.td.hkid, alias.at, sept_l2::unblocked(alias.raw));
            }
        }
        lock.set(e);
        Ok(())
    }

    /// Whether a status of a guest leaf is a BUSY.
    #[must_use]
    pub fn guest_busy(status: u64) -> bool {
        is_busy(status)
    }

    pub(super) fn unfailing<T>(r: Res<T>) -> Result<T, Stop> {
        r.map_err(Stop::from)
    }
}
