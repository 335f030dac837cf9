// SPDX-License-Identifier: GPL-2.0
//! TDH.MR.EXTEND and TDH.MR.FINALIZE: the measurement of what a TD starts from.

use crate::locks::Mode;
use crate::measure;
use crate::mem::Machine;
use crate::module::Module;
use crate::opstate::op_state;
use crate::regs::{leaf, op, Regs};
use crate::sept;
use crate::status::{with_op, Res, EPT_ENTRY_NOT_PRESENT, NO_VCPUS, OPERAND_INVALID, SUCCESS};
use crate::td::{tdcs, Td};

/// Bytes that one MR.EXTEND measures.
const CHUNK: u64 = 256;

impl<M: Machine> Module<M> {
    /// Nothing is measured yet.
    pub(super) fn measure_start(&self, td: &Td) {
        for (i, w) in measure::INITIAL.into_iter().enumerate() {
            self.tdcs_wr(td, tdcs::MRTD_STATE + 8 * i as u64, w);
        }
        self.tdcs_wr(td, tdcs::MRTD_BLOCKS, 0);
        for field in (tdcs::MRTD..tdcs::MRTD + 48)
            .chain(tdcs::RTMR..tdcs::RTMR_END)
            .step_by(8)
        {
            self.tdcs_wr(td, field, 0);
        }
    }

    fn measure_state(&self, td: &Td) -> [u64; 8] {
        core::array::from_fn(|i| self.tdcs_rd(td, tdcs::MRTD_STATE + 8 * i as u64))
    }

    fn measure_block(&self, td: &Td, block: &[u8; measure::BLOCK]) {
        let mut state = self.measure_state(td);
        self.machine.sha512_block(&mut state, block);
        for (i, w) in state.into_iter().enumerate() {
            self.tdcs_wr(td, tdcs::MRTD_STATE + 8 * i as u64, w);
        }
        let n = self.tdcs_rd(td, tdcs::MRTD_BLOCKS);
        self.tdcs_wr(td, tdcs::MRTD_BLOCKS, n + 1);
    }

    /// Measures an operation on a GPA: its name, and the GPA from byte 16 on.
    pub(crate) fn measure_record(&self, td: &Td, what: &[u8], gpa: u64) {
        let mut block = [0; measure::BLOCK];
        block[..what.len()].copy_from_slice(what);
        block[16..24].copy_from_slice(&gpa.to_le_bytes());
        self.measure_block(td, &block);
    }

    pub(crate) fn mr_extend(&self, regs: &mut Regs) -> Res<u64> {
        let (gpa, tdr) = (regs.rcx, regs.rdx);
        (regs.rcx, regs.rdx) = (0, 0);
        let _tdr = self.tdr_explicit(tdr, op::RDX, Mode::Exclusive)?;
        let (td, _) = self.td_open(tdr, leaf::MR_EXTEND, false)?;
        if gpa % CHUNK != 0 {
            return Err(with_op(OPERAND_INVALID, op::RCX));
        }
        let w = self.walk_to_leaf(regs, &td, gpa)?;
        if !sept::allowed(leaf::MR_EXTEND, sept::state(w.raw)) {
            return Err(EPT_ENTRY_NOT_PRESENT);
        }
        let pa = sept::leaf_hpa(w.raw, gpa, w.level);
        self.in_tdmr(pa, w.at)?;
        for line in 0..4 {
            if self.check_line(td.hkid, pa + 64 * line).is_err() {
                return self.fatal();
            }
        }
        self.measure_record(&td, b"MR.EXTEND", gpa);
        for from in (pa..pa + CHUNK).step_by(measure::BLOCK) {
            let words = (0..16).map(|i| self.rd(td.hkid, from + 8 * i));
            self.measure_block(&td, &measure::block(words));
        }
        Ok(SUCCESS)
    }

    pub(crate) fn mr_finalize(&self, regs: &Regs) -> Res<u64> {
        let tdr = regs.rcx;
        let _tdr = self.tdr_explicit(tdr, op::RCX, Mode::Exclusive)?;
        let (td, _) = self.td_open(tdr, leaf::MR_FINALIZE, false)?;
        if self.tdcs_rd(&td, tdcs::NUM_VCPUS) == 0 {
            return Err(NO_VCPUS);
        }
        let blocks = self.tdcs_rd(&td, tdcs::MRTD_BLOCKS);
        let mrtd = measure::digest(&self.machine, &self.measure_state(&td), blocks, &[]);
        for (i, w) in mrtd.into_iter().enumerate() {
            self.tdcs_wr(&td, tdcs::MRTD + 8 * i as u64, w);
        }
        self.tdcs_wr(&td, tdcs::OP_STATE, op_state::RUNNABLE);
        Ok(SUCCESS)
    }
}
