// SPDX-License-Identifier: GPL-2.0
//! TDH.MEM.RD and TDH.MEM.WR: debug access to a TD's memory.

use crate::locks::{Mode, Side};
use crate::mem::Machine;
use crate::module::Module;
use crate::regs::{leaf, op, Regs};
use crate::sept;
use crate::status::{
    with_op, Res, EPT_ENTRY_NOT_PRESENT, EPT_ENTRY_STATE_INCORRECT, OPERAND_INVALID, SUCCESS,
    TD_NON_DEBUG,
};
use crate::td::{tdcs, Td};
use crate::walk::{info, Walk};

impl<M: Machine> Module<M> {
    /// Walks to an accessible leaf of a private GPA, as MEM.RD and MR.EXTEND
    /// demand it.
    pub(crate) fn walk_to_leaf(&self, regs: &mut Regs, td: &Td, gpa: u64) -> Res<Walk> {
        if !self.is_private(td, gpa) {
            return Err(with_op(OPERAND_INVALID, op::RCX));
        }
        let w = self.walk(td, 0, gpa, 0)?;
        if !sept::is_leaf(w.raw) || w.raw & sept::RWX == 0 {
            info(regs, w.raw, w.level);
            return Err(with_op(EPT_ENTRY_NOT_PRESENT, op::RCX));
        }
        Ok(w)
    }

    pub(crate) fn mem_rdwr(&self, regs: &mut Regs, write: bool) -> Res<u64> {
        let (gpa, tdr, data) = (regs.rcx, regs.rdx, regs.r8);
        (regs.rcx, regs.rdx, regs.r8) = (0, 0, 0);
        let leaf_no = if write { leaf::MEM_WR } else { leaf::MEM_RD };
        let mem = self.mem_td(leaf_no, tdr, op::RDX)?;
        let td = &mem.td;
        if !self.is_debug(td) {
            return Err(TD_NON_DEBUG);
        }
        if gpa % 8 != 0 {
            return Err(with_op(OPERAND_INVALID, op::RCX));
        }
        let _tree = self.plain_lock(td, tdcs::SEPT_LOCK, Mode::Shared, op::SEPT_TREE)?;
        let w = self.walk_to_leaf(regs, td, gpa)?;
        let lock = self.entry_lock(td.hkid, w.at, Side::Host).map_err(|e| {
            info(regs, w.raw, w.level);
            with_op(e, op::RCX)
        })?;
        let raw = lock.get();
        if !sept::allowed(leaf_no, sept::state(raw)) {
            info(regs, raw, w.level);
            return Err(with_op(EPT_ENTRY_STATE_INCORRECT, op::RCX));
        }
        let pa = sept::leaf_hpa(raw, gpa, w.level);
        self.in_tdmr(pa, w.at)?;
        match self.rd_checked(td.hkid, pa) {
            Ok(v) => regs.r8 = v,
            Err(_) => return self.fatal(),
        }
        if write {
            self.wr_sealed(td.hkid, pa, data);
        }
        Ok(SUCCESS)
    }
}
