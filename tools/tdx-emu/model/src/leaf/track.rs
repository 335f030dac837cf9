// SPDX-License-Identifier: GPL-2.0
//! TDH.MEM.TRACK: starts a new epoch.

use crate::mem::Machine;
use crate::module::Module;
use crate::regs::{leaf, op, Regs};
use crate::status::{Res, SUCCESS};

impl<M: Machine> Module<M> {
    pub(crate) fn mem_track(&self, regs: &Regs) -> Res<u64> {
        let mem = self.mem_td(leaf::MEM_TRACK, regs.rcx, op::RCX)?;
        self.epoch_advance(&mem.td)?;
        Ok(SUCCESS)
    }
}
