// SPDX-License-Identifier: GPL-2.0
//! TDH.MEM.RANGE.BLOCK and TDH.MEM.RANGE.UNBLOCK.

use crate::locks::Mode;
use crate::mem::Machine;
use crate::module::Module;
use crate::opstate;
use crate::regs::{leaf, op, Regs};
use crate::sept::{self, HPA};
use crate::sept_l2;
use crate::status::{
    with_op, Res, EPT_ENTRY_STATE_INCORRECT, GPA_RANGE_ALREADY_BLOCKED, SUCCESS,
    TLB_TRACKING_NOT_DONE,
};
use crate::td::{tdcs, Td};
use crate::walk::info;

impl<M: Machine> Module<M> {
    /// The PAMT entry of what an S-EPT entry points to.
    fn pamt_of(&self, raw: u64, level: u8) -> Res<u64> {
        if sept::is_leaf(raw) {
            self.page_implicit(sept::leaf_hpa(raw, 0, level), level)
        } else {
            self.page_implicit(raw & HPA, 0)
        }
    }

    fn for_aliases(
        &self,
        td: &Td,
        (raw, gpa, level): (u64, u64, u8),
        f: impl Fn(u64) -> u64,
    ) -> Res {
        for vm in 1..=self.l2_vms(td) {
            if sept::aliased(raw, vm) {
                let alias = self.l2_entry(td, vm, gpa, level)?;
                self.wr(td.hkid, alias.at, f(alias.raw));
            }
        }
        Ok(())
    }

    pub(crate) fn mem_range_block(&self, regs: &mut Regs) -> Res<u64> {
        let (operand, tdr) = (regs.rcx, regs.rdx);
        (regs.rcx, regs.rdx) = (0, 0);
        let mem = self.mem_td(leaf::MEM_RANGE_BLOCK, tdr, op::RDX)?;
        let td = &mem.td;
        let levels = (0, self.top_level(td));
        let e = self.mem_entry(
            regs,
            td,
            leaf::MEM_RANGE_BLOCK,
            operand,
            levels,
            Mode::Exclusive,
        )?;
        let st = sept::state(e.raw);
        if !sept::allowed(leaf::MEM_RANGE_BLOCK, st) {
            info(regs, e.raw, e.level);
            let why = if st.any_blocked() {
                GPA_RANGE_ALREADY_BLOCKED
            } else {
                EPT_ENTRY_STATE_INCORRECT
            };
            return Err(with_op(why, op::RCX));
        }
        e.lock.set(sept::blocked(e.raw, e.level));
        let w = st.any_blocked_w();
        self.for_aliases(td, (e.raw, e.gpa, e.level), |a| sept_l2::blocked(a, w))?;
        let at = self.pamt_of(e.raw, e.level)?;
        let epoch = self.tdcs_rd(td, tdcs::EPOCH);
        self.wr(self.global_hkid(), at + 8, epoch);
        Ok(SUCCESS)
    }

    pub(crate) fn mem_range_unblock(&self, regs: &mut Regs) -> Res<u64> {
        let (operand, tdr) = (regs.rcx, regs.rdx);
        (regs.rcx, regs.rdx) = (0, 0);
        let mem = self.mem_td(leaf::MEM_RANGE_UNBLOCK, tdr, op::RDX)?;
        let td = &mem.td;
        let levels = (0, self.top_level(td));
        let e = self.mem_entry(
            regs,
            td,
            leaf::MEM_RANGE_UNBLOCK,
            operand,
            levels,
            Mode::Exclusive,
        )?;
        let st = sept::state(e.raw);
        if opstate::needs_tracking(self.tdcs_rd(td, tdcs::OP_STATE)) {
            let at = self.pamt_of(e.raw, e.level)?;
            if !self.is_tracked(td, self.pamt_entry(at).bepoch) {
                return Err(with_op(TLB_TRACKING_NOT_DONE, op::RCX));
            }
        }
        if !st.any_pending() {
            self.for_aliases(td, (e.raw, e.gpa, e.level), sept_l2::unblocked)?;
        }
        e.lock.set(sept::unblocked(e.raw));
        Ok(SUCCESS)
    }
}
