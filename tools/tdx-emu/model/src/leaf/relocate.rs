// SPDX-License-Identifier: GPL-2.0
//! TDH.MEM.PAGE.RELOCATE: moves a 4 KiB page of a TD to another frame.

use crate::locks::Mode;
use crate::mem::Machine;
use crate::module::Module;
use crate::pamt::pt;
use crate::regs::{leaf, op, Regs};
use crate::sept::{self, HPA};
use crate::sept_l2;
use crate::status::{with_op, Res, OPERAND_INVALID, SUCCESS};

impl<M: Machine> Module<M> {
    /// All checks come before any change, so a failed call has no effect.
    pub(crate) fn mem_page_relocate(&self, regs: &mut Regs) -> Res<u64> {
        let (operand, tdr, target) = (regs.rcx, regs.rdx, regs.r8);
        (regs.rcx, regs.rdx) = (0, 0);
        let mem = self.mem_td(leaf::MEM_PAGE_RELOCATE, tdr, op::RDX)?;
        let td = &mem.td;
        let e = self.mem_entry(
            regs,
            td,
            leaf::MEM_PAGE_RELOCATE,
            operand,
            (0, 0),
            Mode::Shared,
        )?;
        let source = sept::leaf_hpa(e.raw, e.gpa, 0);
        if source == target {
            return Err(with_op(OPERAND_INVALID, op::R8));
        }
        let old = self.page_implicit_lock(source, 0, Mode::Exclusive, op::RCX)?;
        self.check_tracked(regs, td, (e.raw, 0), old.entry().bepoch)?;
        let new = self.page_explicit(target, op::R8, Mode::Exclusive, pt::NDA)?;

        let pending = sept::state(e.raw).any_pending();
        if !pending {
            self.copy_page((td.hkid, source), (td.hkid, target))?;
        }
        // A pending page has no content: the target is not written at all.
        old.free();
        self.unseal(source, crate::mem::PAGE);
        new.assign(pt::REG, tdr);
        for vm in 1..=self.l2_vms(td) {
            if !sept::aliased(e.raw, vm) {
                continue;
            }
            let alias = self.l2_entry(td, vm, e.gpa, 0)?;
            let mut moved = alias.raw & !HPA | target;
            if !pending {
                moved = sept_l2::unblocked(moved);
            }
            self.wr(td.hkid, alias.at, moved);
        }
        e.lock.set(sept::unblocked(e.raw & !HPA | target));
        regs.rcx = source;
        Ok(SUCCESS)
    }
}
