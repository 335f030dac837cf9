// SPDX-License-Identifier: GPL-2.0
//! TLB tracking by epochs.
//!
//! A TD counts epochs from 1. BLOCK stamps a page with the current epoch;
//! TRACK starts a new one, once no vCPU is left from the epoch before; entering
//! a vCPU counts it in the current epoch, after flushing its translations if
//! the epoch changed. A blocked page has no stale translation when its epoch
//! is two back, or one back and nobody who entered in it is still inside.

use crate::locks::Mode;
use crate::mem::Machine;
use crate::module::Module;
use crate::regs::op;
use crate::status::{Res, PREVIOUS_TLB_EPOCH_BUSY};
use crate::td::{tdcs, tdvps, Td};

/// The rule itself. Bit 63 of a block epoch marks one written by migration,
/// which is never tracked.
#[must_use]
pub const fn tracked(bepoch: u64, epoch: u64, refcount: [u16; 2]) -> bool {
    if bepoch >> 63 != 0 {
        return false;
    }
    bepoch < epoch.wrapping_sub(1)
        || bepoch == epoch.wrapping_sub(1) && refcount[(bepoch & 1) as usize] == 0
}

const fn unpack(w: u64) -> [u16; 2] {
    [w as u16, (w >> 16) as u16]
}

impl<M: Machine> Module<M> {
    /// A consistent sample of epoch and reference counts.
    pub(crate) fn epoch_sample(&self, td: &Td) -> (u64, [u16; 2]) {
        loop {
            let before = self.tdcs_rd(td, tdcs::EPOCH);
            let refs = unpack(self.tdcs_rd(td, tdcs::REFCOUNT));
            if self.tdcs_rd(td, tdcs::EPOCH) == before {
                return (before, refs);
            }
        }
    }

    pub(crate) fn is_tracked(&self, td: &Td, bepoch: u64) -> bool {
        let (epoch, refs) = self.epoch_sample(td);
        tracked(bepoch, epoch, refs)
    }

    fn refcount_add(&self, td: &Td, epoch: u64, n: u16) {
        let shift = 16 * (epoch & 1);
        self.update(td.hkid, td.tdcs + tdcs::REFCOUNT, |w| {
            let c = ((w >> shift) as u16).wrapping_add(n);
            (w & !(0xFFFF << shift) | u64::from(c) << shift, ())
        });
    }

    /// TRACK: starts the next epoch.
    pub(crate) fn epoch_advance(&self, td: &Td) -> Res {
        let _lock = self.plain_lock(td, tdcs::EPOCH_LOCK, Mode::Exclusive, op::TD_EPOCH)?;
        let (epoch, refs) = self.epoch_sample(td);
        if refs[(1 - (epoch & 1)) as usize] != 0 {
            return Err(PREVIOUS_TLB_EPOCH_BUSY);
        }
        self.tdcs_wr(td, tdcs::EPOCH, epoch.wrapping_add(1));
        Ok(())
    }

    /// A vCPU enters: it is counted in the current epoch.
    pub(crate) fn epoch_enter(&self, lp: usize, td: &Td, tdvpr: u64, fresh: bool) -> Res {
        let epoch;
        {
            let _lock = self.plain_lock(td, tdcs::EPOCH_LOCK, Mode::Shared, op::TD_EPOCH)?;
            epoch = self.tdcs_rd(td, tdcs::EPOCH);
            self.refcount_add(td, epoch, 1);
        }
        if epoch != self.vp_rd(td, tdvpr, tdvps::VCPU_EPOCH) {
            if !fresh {
                self.flush_translations(lp, td);
            }
            self.vp_wr(td, tdvpr, tdvps::VCPU_EPOCH, epoch);
        }
        Ok(())
    }

    /// A vCPU leaves, or its entry is undone.
    pub(crate) fn epoch_leave(&self, td: &Td, tdvpr: u64) {
        let epoch = self.vp_rd(td, tdvpr, tdvps::VCPU_EPOCH);
        self.refcount_add(td, epoch, u16::MAX);
    }

    /// INVEPT of all contexts of the TD.
    pub(crate) fn flush_translations(&self, lp: usize, td: &Td) {
        self.g.lp[lp].invepts.add(1);
        for vm in 0..=self.l2_vms(td) {
            self.machine.invept(lp, self.eptp(td, vm));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::tracked;

    #[test]
    fn table() {
        for (bepoch, epoch, refs, want) in [
            (1, 1, [0, 0], false),
            (1, 2, [0, 0], true),
            (1, 2, [0, 1], false),
            (1, 2, [1, 0], true),
            (1, 3, [1, 1], true),
            (2, 3, [1, 0], false),
            (2, 3, [0, 1], true),
            (0, 1, [0, 0], true),
            (0, 1, [1, 0], false),
            (1 << 63, 9, [0, 0], false),
        ] {
            assert_eq!(
                tracked(bepoch, epoch, refs),
                want,
                "{bepoch} {epoch} {refs:?}"
            );
        }
    }
}
