// SPDX-License-Identifier: GPL-2.0
//! TDH.VP.ENTER: epoch bookkeeping and the zero-step filter.
//!
//! Running guest code is the front end's business: a successful call leaves
//! the logical processor "in the guest", holding TDR and TDVPR shared, until
//! [`crate::Module::guest_event`] brings it out again.

use core::mem::forget;

use crate::locks::Mode;
use crate::mem::Machine;
use crate::module::Module;
use crate::regs::{leaf, op, Regs};
use crate::sept::{self, HPA};
use crate::status::{
    with_op, Res, EXIT_REASON_EPT_VIOLATION, OPERAND_INVALID, TSC_ROLLBACK, VCPU_STATE_INCORRECT,
};
use crate::td::{last_exit, tdcs, tdvps, vcpu, Td};

const HINT: u64 = 1 << 52;
const RESUME_L1: u64 = 1 << 53;

/// How VP.ENTER ended when it did not fail.
pub(crate) enum Entry {
    /// The LP is in the guest now.
    Entered,
    /// An exit was emulated instead; the value is RAX.
    Exit(u64),
}

impl<M: Machine> Module<M> {
    pub(crate) fn vp_enter(&self, regs: &mut Regs, lp: usize) -> Res<Entry> {
        let bad = with_op(OPERAND_INVALID, op::RCX);
        if regs.rcx & !(HPA | HINT | RESUME_L1) != 0 {
            return Err(bad);
        }
        let tdvpr = regs.rcx & HPA;
        let vp = self.vp_open(leaf::VP_ENTER, tdvpr, op::RCX, Mode::Shared, Mode::Shared)?;
        let td = vp.td;
        self.vp_complete(&td, tdvpr)?;
        if self.vp_rd(&td, tdvpr, tdvps::STATE) != vcpu::READY {
            return Err(VCPU_STATE_INCORRECT);
        }
        let fresh = self.vp_associate(&td, tdvpr, lp)?;
        let trapped = self.vp_rd(&td, tdvpr, tdvps::LAST_TD_EXIT) == last_exit::ASYNC_TRAP;
        if regs.rcx & HINT != 0 && !trapped || regs.rcx & RESUME_L1 != 0 {
            // The model never runs an L2 VM, so there is no L1 to resume to.
            return Err(bad);
        }
        let last = self.vp_rd(&td, tdvpr, tdvps::LAST_EXIT_TSC);
        if (self.machine.tsc(lp).wrapping_sub(last) as i64) < 0 {
            return Err(TSC_ROLLBACK);
        }
        self.epoch_enter(lp, &td, tdvpr, fresh)?;

        let me = &self.g.lp[lp];
        me.rip_on_entry.set(self.vp_rd(&td, tdvpr, tdvps::RIP));
        let logged = self.vp_rd(&td, tdvpr, tdvps::EPF_LOGGED);
        if logged > tdvps::EPF_LIST_SIZE {
            return self.stray(tdvpr);
        }
        // Held until just before the entry.
        let _tree = if logged == 0 {
            None
        } else {
            match self.plain_lock(&td, tdcs::SEPT_LOCK, Mode::Exclusive, op::SEPT_TREE) {
                Ok(tree) => Some(tree),
                Err(e) => {
                    self.epoch_leave(&td, tdvpr);
                    return Err(e);
                }
            }
        };
        for i in 0..logged {
            let gpa = self.vp_rd(&td, tdvpr, tdvps::EPF_LIST + 8 * i);
            if self.translate(&td, gpa, sept::RWX)?.is_err() {
                self.epoch_leave(&td, tdvpr);
                return Ok(Entry::Exit(self.emulated_violation(regs, &td, tdvpr, gpa)));
            }
        }
        if me.last_tdvpr.get() != tdvpr {
            self.flush_translations(lp, &td);
            me.last_tdvpr.set(tdvpr);
        }
        if self.vp_rd(&td, tdvpr, tdvps::LAST_TD_EXIT) == last_exit::TDVMCALL {
            self.vmcall_return(&td, tdvpr, regs);
        }
        self.vp_wr(&td, tdvpr, tdvps::STATE, vcpu::ACTIVE);
        me.tdr.set(td.tdr);
        me.tdvpr.set(tdvpr);
        // The TDR and TDVPR locks are held while the guest runs.
        forget(vp.tdr);
        forget(vp.page);
        Ok(Entry::Entered)
    }

    fn emulated_violation(&self, regs: &mut Regs, td: &Td, tdvpr: u64, gpa: u64) -> u64 {
        self.vp_wr(td, tdvpr, tdvps::STATE, vcpu::READY);
        self.vp_wr(td, tdvpr, tdvps::LAST_TD_EXIT, last_exit::ASYNC_FAULT);
        let rbp = regs.rbp;
        *regs = Regs {
            rbp,
            rcx: 2,
            r8: gpa & !0xFFF,
            ..Regs::default()
        };
        EXIT_REASON_EPT_VIOLATION
    }
}
