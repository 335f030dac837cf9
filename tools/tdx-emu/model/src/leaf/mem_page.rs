// SPDX-License-Identifier: GPL-2.0
//! TDH.MEM.PAGE.ADD, AUG and REMOVE.

use crate::locks::Mode;
use crate::mem::Machine;
use crate::module::Module;
use crate::opstate;
use crate::pamt::pt;
use crate::regs::{leaf, op, Regs};
use crate::sept::{self, State};
use crate::sept_l2;
use crate::status::{
    with_op, Res, EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, OPERAND_INVALID, SUCCESS,
};
use crate::td::tdcs;
use crate::walk::{info, mapping};

impl<M: Machine> Module<M> {
    pub(crate) fn mem_page_add(&self, regs: &mut Regs) -> Res<u64> {
        let (operand, tdr, target, source) = (regs.rcx, regs.rdx, regs.r8, regs.r9);
        (regs.rcx, regs.rdx) = (0, 0);
        let _tdr = self.tdr_explicit(tdr, op::RDX, Mode::Exclusive)?;
        let (td, _) = self.td_open(tdr, leaf::MEM_PAGE_ADD, false)?;
        let bad = with_op(OPERAND_INVALID, op::RCX);
        let (gpa, _) = mapping(operand, 0, 0).ok_or(bad)?;
        if !self.is_private(&td, gpa) {
            return Err(bad);
        }
        let w = self.walk(&td, 0, gpa, 0)?;
        if w.level != 0 {
            info(regs, w.raw, w.level);
            return Err(with_op(EPT_WALK_FAILED, op::RCX));
        }
        if !sept::allowed(leaf::MEM_PAGE_ADD, sept::state(w.raw)) {
            info(regs, w.raw, 0);
            return Err(with_op(EPT_ENTRY_STATE_INCORRECT, op::RCX));
        }
        if !self.shared_ok(source, crate::mem::PAGE) {
            return Err(with_op(OPERAND_INVALID, op::R9));
        }
        let page = self.page_explicit(target, op::R8, Mode::Exclusive, pt::NDA)?;
        // Nobody else can be at the entry while the TDR is held exclusively.
        if w.raw & sept::TDEL != 0 {
            return self.fatal();
        }
        // The source is shared memory: it is read as the host wrote it.
        let from = source & !self.config.hkid_mask();
        self.copy_page((0, from), (td.hkid, target))?;
        let entry = sept::leaf_entry(State::Mapped, sept::RWX, target);
        self.wr(td.hkid, w.at, entry);
        self.measure_record(&td, b"MEM.PAGE.ADD", gpa);
        self.children(tdr, 1);
        page.assign(pt::REG, tdr);
        Ok(SUCCESS)
    }

    pub(crate) fn mem_page_aug(&self, regs: &mut Regs) -> Res<u64> {
        let (operand, tdr, target) = (regs.rcx, regs.rdx, regs.r8);
        (regs.rcx, regs.rdx) = (0, 0);
        let mem = self.mem_td(leaf::MEM_PAGE_AUG, tdr, op::RDX)?;
        let td = &mem.td;
        let e = self.mem_entry(regs, td, leaf::MEM_PAGE_AUG, operand, (0, 1), Mode::Shared)?;
        let page = self.page_free(target, op::R8, e.level)?;
        e.lock.set(sept::leaf_entry(State::Pending, 0, target));
        self.children(tdr, 1 << (9 * e.level));
        page.assign(pt::REG, tdr);
        Ok(SUCCESS)
    }

    pub(crate) fn mem_page_remove(&self, regs: &mut Regs) -> Res<u64> {
        let (operand, tdr) = (regs.rcx, regs.rdx);
        (regs.rcx, regs.rdx) = (0, 0);
        let mem = self.mem_td(leaf::MEM_PAGE_REMOVE, tdr, op::RDX)?;
        let td = &mem.td;
        let e = self.mem_entry(
            regs,
            td,
            leaf::MEM_PAGE_REMOVE,
            operand,
            (0, 2),
            Mode::Shared,
        )?;
        let raw = sept::without_progress(e.raw, e.level);
        let hpa = sept::leaf_hpa(raw, e.gpa, e.level);
        let page = self.page_implicit_lock(hpa, e.level, Mode::Exclusive, op::RCX)?;
        self.check_tracked(regs, td, (raw, e.level), page.entry().bepoch)?;
        for vm in 1..=self.l2_vms(td) {
            if sept::aliased(raw, vm) {
                let alias = self.l2_entry(td, vm, e.gpa, e.level)?;
                self.wr(td.hkid, alias.at, sept_l2::INIT);
            }
        }
        let importing = opstate::import_in_progress(self.tdcs_rd(td, tdcs::OP_STATE));
        e.lock.set(sept::removed_entry(importing));
        self.children(tdr, -(1 << (9 * e.level)));
        page.free();
        self.unseal(hpa, sept::level_size(e.level));
        regs.rcx = hpa;
        Ok(SUCCESS)
    }
}
