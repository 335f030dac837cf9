// SPDX-License-Identifier: GPL-2.0
//! TDH.MR.EXTEND and TDH.MR.FINALIZE.
//!
//! The measurement is a stand-in (see [`crate::cipher::measure`]): it depends
//! on the same records as the real MRTD but is not SHA-384.

use crate::cipher;
use crate::locks::Mode;
use crate::mem::Machine;
use crate::module::Module;
use crate::opstate::op_state;
use crate::regs::{leaf, op, Regs};
use crate::sept;
use crate::status::{with_op, Res, EPT_ENTRY_NOT_PRESENT, NO_VCPUS, OPERAND_INVALID, SUCCESS};
use crate::td::{tdcs, Td};

impl<M: Machine> Module<M> {
    fn measure(&self, td: &Td, words: impl Iterator<Item = u64>) {
        let at = |i: usize| tdcs::MRTD + 8 * i as u64;
        let mut lanes = core::array::from_fn(|i| self.tdcs_rd(td, at(i)));
        for w in words {
            cipher::measure(&mut lanes, w);
        }
        for (i, lane) in lanes.iter().enumerate() {
            self.tdcs_wr(td, at(i), *lane);
        }
    }

    /// Extends the measurement with a record of an operation on a GPA.
    pub(crate) fn measure_record(&self, td: &Td, what: [u8; 8], gpa: u64) {
        self.measure(td, [u64::from_le_bytes(what), gpa].into_iter());
    }

    pub(crate) fn mr_extend(&self, regs: &mut Regs) -> Res<u64> {
        let (gpa, tdr) = (regs.rcx, regs.rdx);
        (regs.rcx, regs.rdx) = (0, 0);
        let _tdr = self.tdr_explicit(tdr, op::RDX, Mode::Exclusive)?;
        let (td, _) = self.td_open(tdr, leaf::MR_EXTEND, false)?;
        if gpa % 256 != 0 {
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
        self.measure_record(&td, *b"MR.EXTEN", gpa);
        self.measure(&td, (0..32).map(|i| self.rd(td.hkid, pa + 8 * i)));
        Ok(SUCCESS)
    }

    pub(crate) fn mr_finalize(&self, regs: &Regs) -> Res<u64> {
        let tdr = regs.rcx;
        let _tdr = self.tdr_explicit(tdr, op::RCX, Mode::Exclusive)?;
        let (td, _) = self.td_open(tdr, leaf::MR_FINALIZE, false)?;
        if self.tdcs_rd(&td, tdcs::NUM_VCPUS) == 0 {
            return Err(NO_VCPUS);
        }
        self.tdcs_wr(&td, tdcs::OP_STATE, op_state::RUNNABLE);
        Ok(SUCCESS)
    }
}
