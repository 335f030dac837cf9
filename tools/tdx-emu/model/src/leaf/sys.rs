// SPDX-License-Identifier: GPL-2.0
//! TDH.SYS leaves except CONFIG.

use super::metadata;
use super::mng::{global_lock, GlobalLock};
use crate::locks::{self, Mode};
use crate::mem::Machine;
use crate::module::{kot, sys_state, Module};
use crate::pamt::pt;
use crate::regs::{op, Regs};
use crate::status::{
    with_op, Res, KEY_CONFIGURED, OPERAND_BUSY, OPERAND_INVALID, SUCCESS, SYS_BUSY,
    SYS_INIT_NOT_PENDING, SYS_KEY_CONFIG_NOT_PENDING, SYS_LP_INIT_DONE, SYS_LP_INIT_NOT_DONE,
    SYS_LP_INIT_NOT_PENDING, TDMR_ALREADY_INITIALIZED,
};

/// 4 KiB PAMT entries one call of SYS.TDMR.INIT initializes.
const PAMT_BATCH: u64 = 1024;
const GIB: u64 = 1 << 30;

impl<M: Machine> Module<M> {
    pub(super) fn sys_lock(&self, mode: Mode) -> Res<GlobalLock<'_>> {
        global_lock(&self.g.lock, mode).map_err(|_| SYS_BUSY)
    }

    pub(crate) fn sys_init(&self, regs: &Regs) -> Res<u64> {
        if regs.rcx != 0 {
            return Err(with_op(OPERAND_INVALID, op::RCX));
        }
        let _lock = self.sys_lock(Mode::Exclusive)?;
        if self.g.sys_state.get() != sys_state::INIT_PENDING {
            return Err(SYS_INIT_NOT_PENDING);
        }
        self.g.sys_state.set(sys_state::INIT_DONE);
        Ok(SUCCESS)
    }

    pub(crate) fn sys_lp_init(&self, lp: usize) -> Res<u64> {
        let _lock = self.sys_lock(Mode::Shared)?;
        if self.g.sys_state.get() == sys_state::INIT_PENDING {
            return Err(SYS_LP_INIT_NOT_PENDING);
        }
        if self.g.lp[lp].initialized.or(1) != 0 {
            return Err(SYS_LP_INIT_DONE);
        }
        self.g.lps_initialized.add(1);
        Ok(SUCCESS)
    }

    pub(crate) fn sys_key_config(&self, lp: usize) -> Res<u64> {
        let _lock = self.sys_lock(Mode::Exclusive)?;
        if self.g.sys_state.get() != sys_state::CONFIG_DONE {
            return Err(SYS_KEY_CONFIG_NOT_PENDING);
        }
        let mine = 1 << self.config.pkg(lp);
        if self.g.pkgs_keyed.or(mine) & mine != 0 {
            return Err(KEY_CONFIGURED);
        }
        if let Err(e) = self.program_key(lp, self.global_hkid()) {
            self.g.pkgs_keyed.and(!mine);
            return Err(e);
        }
        if self.g.pkgs_keyed.get().count_ones() as usize >= self.config.pkgs {
            self.g.sys_state.set(sys_state::READY);
        }
        Ok(SUCCESS)
    }

    pub(crate) fn sys_tdmr_init(&self, regs: &mut Regs) -> Res<u64> {
        let bad = with_op(OPERAND_INVALID, op::RCX);
        regs.rdx = 0;
        if !self.hpa_ok(regs.rcx, GIB) {
            return Err(bad);
        }
        let n = self.g.n_tdmrs.get() as usize;
        let t = self.g.tdmrs[..n]
            .iter()
            .find(|t| t.base.get() == regs.rcx)
            .ok_or(bad)?;
        if !t.lock.step(|w| (1, w == 0)) {
            return Err(with_op(OPERAND_BUSY, op::RCX));
        }
        let from = t.initialized.get();
        let r = if from >= t.base.get() + t.size.get() {
            Err(TDMR_ALREADY_INITIALIZED)
        } else {
            self.pamt_init(t, from);
            let next = from + PAMT_BATCH * 4096;
            t.initialized.set(next);
            regs.rdx = next & !(GIB - 1);
            Ok(SUCCESS)
        };
        t.lock.set(0);
        r
    }

    fn pamt_init(&self, t: &crate::module::Tdmr, from: u64) {
        let g = self.global_hkid();
        let base = t.base.get();
        let reserved = |off: u64| {
            t.reserved
                .iter()
                .any(|r| r.1.get() != 0 && off >= r.0.get() && off < r.0.get() + r.1.get())
        };
        for i in 0..PAMT_BATCH {
            let pa = from + i * 4096;
            let off = pa - base;
            let ty = if reserved(off) { pt::RSVD } else { pt::NDA };
            for level in 0..3u32 {
                let size = 4096u64 << (9 * level);
                if off & (size - 1) != 0 {
                    break;
                }
                let at = t.pamt[level as usize].get() + off / size * 16;
                let ty = if level == 0 { ty } else { pt::NDA };
                self.wr(g, at, u64::from(ty) << 16);
                self.wr(g, at + 8, 0);
            }
        }
    }

    pub(crate) fn sys_rd(&self, regs: &mut Regs, lp: usize) -> Res<u64> {
        let field = regs.rdx;
        (regs.rdx, regs.r8) = (metadata::NONE, 0);
        if self.g.lp[lp].initialized.get() == 0 {
            return Err(SYS_LP_INIT_NOT_DONE);
        }
        let r = self.sys_field(field);
        match r {
            Ok((value, next)) => {
                (regs.r8, regs.rdx) = (value, next);
                Ok(SUCCESS)
            }
            Err(e) => {
                if e == crate::status::METADATA_FIRST_FIELD_ID_IN_CONTEXT {
                    regs.rdx = metadata::first_sys_field();
                }
                Err(e)
            }
        }
    }

    /// The KeyID the module keeps for itself.
    pub(super) fn reserve_hkid(&self, hkid: u16) {
        self.g.hkid.set(hkid.into());
        self.g.hkids[usize::from(hkid)].state.set(kot::RESERVED);
    }

    /// Whether the KeyID table is free of locks (for tests of quiescence).
    pub fn quiescent(&self) -> bool {
        let free =
            |w: &crate::mem::Word| w.step(|v| (v, locks::take(v, Mode::Exclusive).1.is_ok()));
        free(&self.g.lock) && free(&self.g.kot_lock)
    }
}
