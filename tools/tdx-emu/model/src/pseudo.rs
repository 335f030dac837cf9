// SPDX-License-Identifier: GPL-2.0
//! Looking into the module and reaching into it from outside: for tests, the
//! replayer and state dumps. Nothing here exists on real parts.

use crate::locks::{self, Mode, Side};
use crate::mem::Machine;
use crate::module::Module;
use crate::pamt::Entry;
use crate::sept::{is_leaf, try_state, State, HPA, TDEL};
use crate::status::Res;
use crate::td::{tdcs, tdr, tdvps, Td};
use crate::walk::Walk;

/// A lock object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockObj {
    /// PAMT entry of a page at a size level.
    Pamt {
        /// The page.
        hpa: u64,
        /// Size level.
        level: u8,
    },
    /// Operation state lock of a TD.
    OpState {
        /// The TD.
        tdr: u64,
    },
    /// S-EPT tree lock of a TD.
    SeptTree {
        /// The TD.
        tdr: u64,
    },
    /// Lock of an S-EPT entry.
    SeptEntry {
        /// The TD.
        tdr: u64,
        /// The address.
        gpa: u64,
        /// The level.
        level: u8,
    },
    /// Epoch lock of a TD.
    Epoch {
        /// The TD.
        tdr: u64,
    },
    /// The key ownership table.
    Kot,
}

/// The fields of a TD that dumps show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TdView {
    pub fatal: u64,
    pub num_tdcx: u64,
    pub chldcnt: u64,
    pub lifecycle: u64,
    pub op_state: u64,
    pub epoch: u64,
    pub ref0: u64,
    pub ref1: u64,
    pub num_vcpus: u64,
    pub num_assoc: u64,
    pub op_state_lock: u64,
    pub sept_lock: u64,
    pub epoch_lock: u64,
}

/// The module as a whole, for dumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SysView {
    /// 0 INIT_PENDING, 1 INIT_DONE, 2 CONFIG_DONE, 3 READY, 4 SHUTDOWN.
    pub state: u64,
    pub lps_initialized: u64,
    pub packages_keyed: u64,
    pub global_hkid: u64,
    pub tdmrs: usize,
}

/// A vCPU, for dumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct VcpuView {
    /// 0 uninitialized, 2 ready, 4 active, 8 disabled.
    pub state: u64,
    /// Logical processor, 0xFFFF_FFFF: none.
    pub lp: u64,
    pub epoch: u64,
    pub index: u64,
    /// EPT violations without progress.
    pub violations: u64,
}

impl<M: Machine> Module<M> {
    /// The module as a whole.
    pub fn sys_view(&self) -> SysView {
        SysView {
            state: self.g.sys_state.get(),
            lps_initialized: self.g.lps_initialized.get(),
            packages_keyed: self.g.pkgs_keyed.get().count_ones().into(),
            global_hkid: self.g.hkid.get(),
            tdmrs: self.g.n_tdmrs.get() as usize,
        }
    }

    /// Base, size and end of the initialized part of a TDMR.
    pub fn tdmr_view(&self, i: usize) -> Option<(u64, u64, u64)> {
        let t = self.g.tdmrs[..self.g.n_tdmrs.get() as usize].get(i)?;
        Some((t.base.get(), t.size.get(), t.initialized.get()))
    }

    /// A vCPU of a TD whose keys are configured.
    pub fn vcpu_view(&self, tdr: u64, tdvpr: u64) -> VcpuView {
        let td = self.any_td(tdr);
        let f = |field| self.vp_rd(&td, tdvpr, field);
        VcpuView {
            state: f(tdvps::STATE),
            lp: f(tdvps::ASSOC_LP),
            epoch: f(tdvps::VCPU_EPOCH),
            index: f(tdvps::VCPU_INDEX),
            violations: f(tdvps::EPF_COUNT),
        }
    }

    /// Walks like the observer it is: through blocked tables too, up to the
    /// first entry that is free, removed or a leaf.
    fn outside_walk(&self, td: &Td, gpa: u64, level: u8) -> Walk {
        let eptp = self.eptp(td, 0);
        let mut table = eptp & HPA;
        let mut at_level = (eptp >> 3 & 7).min(4) as u8;
        loop {
            let at = table + (gpa >> (12 + 9 * u32::from(at_level)) & 511) * 8;
            let raw = self.rd(td.hkid, at);
            let end = matches!(try_state(raw), None | Some(State::Free | State::Removed));
            if at_level == level || at_level == 0 || end || is_leaf(raw) {
                return Walk {
                    at,
                    level: at_level,
                    raw,
                };
            }
            table = raw & HPA;
            at_level -= 1;
        }
    }

    fn any_td(&self, tdr: u64) -> Td {
        self.td_raw(tdr)
    }

    /// Takes a lock as another call would.
    ///
    /// # Errors
    /// The BUSY status, without an operand.
    pub fn lock(&self, obj: LockObj, mode: Mode, side: Side) -> Res {
        match obj {
            LockObj::Pamt { hpa, level } => match self.pamt_block(hpa) {
                Some(b) => {
                    self.pamt_step(b.0[usize::from(level)], |w| locks::hp_take(w, mode, side))
                }
                None => self.fatal(),
            },
            LockObj::OpState { tdr } => {
                let td = self.any_td(tdr);
                self.lock_step(td.hkid, td.tdcs + tdcs::OP_STATE_LOCK, |w| {
                    locks::hp_take(w, mode, side)
                })
            }
            LockObj::SeptTree { tdr } => {
                let td = self.any_td(tdr);
                self.lock_step(td.hkid, td.tdcs + tdcs::SEPT_LOCK, |w| locks::take(w, mode))
            }
            LockObj::Epoch { tdr } => {
                let td = self.any_td(tdr);
                self.lock_step(td.hkid, td.tdcs + tdcs::EPOCH_LOCK, |w| {
                    locks::take(w, mode)
                })
            }
            LockObj::SeptEntry { tdr, gpa, level } => {
                let td = self.any_td(tdr);
                let w = self.outside_walk(&td, gpa, level);
                self.entry_take(td.hkid, w.at, side)
            }
            LockObj::Kot => self.g.kot_lock.step(|w| locks::take(w, mode)),
        }
    }

    /// Releases a lock.
    pub fn unlock(&self, obj: LockObj, mode: Mode) {
        let plain = |td: &Td, field| {
            self.lock_step(td.hkid, td.tdcs + field, |w| (locks::release(w, mode), ()));
        };
        match obj {
            LockObj::Pamt { hpa, level } => {
                if let Some(b) = self.pamt_block(hpa) {
                    self.pamt_step(b.0[usize::from(level)], |w| {
                        (locks::hp_release(w, mode), ())
                    });
                }
            }
            LockObj::OpState { tdr } => {
                let td = self.any_td(tdr);
                self.lock_step(td.hkid, td.tdcs + tdcs::OP_STATE_LOCK, |w| {
                    (locks::hp_release(w, mode), ())
                });
            }
            LockObj::SeptTree { tdr } => plain(&self.any_td(tdr), tdcs::SEPT_LOCK),
            LockObj::Epoch { tdr } => plain(&self.any_td(tdr), tdcs::EPOCH_LOCK),
            LockObj::SeptEntry { tdr, gpa, level } => {
                let td = self.any_td(tdr);
                let w = self.outside_walk(&td, gpa, level);
                self.update(td.hkid, w.at, |e| (e & !TDEL, ()));
            }
            LockObj::Kot => self.g.kot_lock.step(|w| (locks::release(w, mode), ())),
        }
    }

    /// Overwrites the operation state of a TD.
    pub fn set_op_state(&self, tdr: u64, state: u64) {
        self.tdcs_wr(&self.any_td(tdr), tdcs::OP_STATE, state);
    }

    /// Overwrites the fatal flag of a TD.
    pub fn set_fatal(&self, tdr: u64, fatal: u64) {
        self.tdr_wr(tdr, tdr::FATAL, fatal);
    }

    /// Overwrites an S-EPT entry, if the walk reaches it.
    pub fn poke_sept(&self, tdr: u64, gpa: u64, level: u8, raw: u64) -> bool {
        let td = self.any_td(tdr);
        let w = self.outside_walk(&td, gpa, level);
        if w.level == level {
            self.wr(td.hkid, w.at, raw);
        }
        w.level == level
    }

    /// Walks to an S-EPT entry: its content and the level reached. Stops at
    /// the first entry that is free, removed or a leaf.
    pub fn sept_view(&self, tdr: u64, gpa: u64, level: u8) -> (u64, u8) {
        let w = self.outside_walk(&self.any_td(tdr), gpa, level);
        (w.raw, w.level)
    }

    /// The PAMT entry of a page at a size level.
    pub fn pamt_view(&self, hpa: u64, level: u8) -> Option<Entry> {
        self.pamt_block(hpa)
            .map(|b| self.pamt_entry(b.0[usize::from(level)]))
    }

    /// The fields of a TD. Those of the TDCS are zero while there is none.
    pub fn td_view(&self, tdr: u64) -> TdView {
        let td = self.any_td(tdr);
        let mut v = TdView {
            fatal: self.tdr_rd(tdr, tdr::FATAL),
            num_tdcx: self.tdr_rd(tdr, tdr::NUM_TDCX),
            chldcnt: self.tdr_rd(tdr, tdr::CHLDCNT),
            lifecycle: self.tdr_rd(tdr, tdr::LIFECYCLE),
            ..TdView::default()
        };
        if v.num_tdcx == 0 {
            return v;
        }
        let f = |field| self.tdcs_rd(&td, field);
        let refs = f(tdcs::REFCOUNT);
        v.op_state = f(tdcs::OP_STATE);
        v.epoch = f(tdcs::EPOCH);
        v.ref0 = refs & 0xFFFF;
        v.ref1 = refs >> 16 & 0xFFFF;
        v.num_vcpus = f(tdcs::NUM_VCPUS);
        v.num_assoc = f(tdcs::NUM_ASSOC);
        v.op_state_lock = f(tdcs::OP_STATE_LOCK) & 0xFFFF;
        v.sept_lock = f(tdcs::SEPT_LOCK) & 0xFFFF;
        v.epoch_lock = f(tdcs::EPOCH_LOCK) & 0xFFFF;
        v
    }
}
