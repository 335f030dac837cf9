// SPDX-License-Identifier: GPL-2.0
//! TDH.MNG leaves except INIT.

use super::metadata;
use crate::locks::{self, Mode};
use crate::mem::{Machine, Word};
use crate::module::{kot, Module};
use crate::opstate::{self, lifecycle, op_state};
use crate::pamt::pt;
use crate::regs::{leaf, op, Regs};
use crate::sept;
use crate::status::{
    with_op, Res, FLUSHVP_NOT_DONE, HKID_NOT_FREE, KEY_CONFIGURED, KEY_GENERATION_FAILED,
    LIFECYCLE_STATE_INCORRECT, OPERAND_BUSY, OPERAND_INVALID, OP_STATE_INCORRECT, RND_NO_ENTROPY,
    SUCCESS, TDCX_NUM_INCORRECT, TD_FATAL, TD_KEYS_NOT_CONFIGURED, WBCACHE_NOT_COMPLETE,
};
use crate::td::{tdcs, tdr, MAX_TDCX, MIN_TDCX, TDCX_MSR_BITMAPS, TDCX_SEPT_ROOT};

/// A held lock in the module's own data.
pub(super) struct GlobalLock<'m> {
    word: &'m Word,
    mode: Mode,
}

impl Drop for GlobalLock<'_> {
    fn drop(&mut self) {
        let mode = self.mode;
        self.word.step(|w| (locks::release(w, mode), ()));
    }
}

pub(super) fn global_lock(word: &Word, mode: Mode) -> Res<GlobalLock<'_>> {
    word.step(|w| locks::take(w, mode))?;
    Ok(GlobalLock { word, mode })
}

impl<M: Machine> Module<M> {
    fn kot_lock(&self) -> Res<GlobalLock<'_>> {
        global_lock(&self.g.kot_lock, Mode::Exclusive).map_err(|e| with_op(e, op::KOT))
    }

    /// Programs a random key into the memory controller.
    pub(super) fn program_key(&self, lp: usize, hkid: u16) -> Res {
        match self.machine.pconfig(lp, hkid) {
            0 => {}
            5 => return Err(with_op(OPERAND_BUSY, op::KET)),
            2 => return Err(KEY_GENERATION_FAILED),
            _ => return self.fatal(),
        }
        let slot = &self.g.hkids[usize::from(hkid)].key;
        if slot.get() == 0 {
            let r = self.machine.random().unwrap_or(0x5DEE_CE66_D1CE_4E5B);
            // Key 0 would mean "plain".
            slot.set(r.rotate_left(u32::from(hkid)) ^ u64::from(hkid) << 1 | 1);
        }
        Ok(())
    }

    pub(crate) fn mng_create(&self, regs: &Regs) -> Res<u64> {
        let (pa, hkid) = (regs.rcx, regs.rdx);
        let private = u64::from(self.config.first_private_hkid)..self.config.hkids() as u64;
        if !private.contains(&hkid) {
            return Err(with_op(OPERAND_INVALID, op::RDX));
        }
        let page = self.page_explicit(pa, op::RCX, Mode::Exclusive, pt::NDA)?;
        let _kot = self.kot_lock()?;
        let slot = &self.g.hkids[hkid as usize];
        if slot.state.get() != kot::FREE {
            return Err(HKID_NOT_FREE);
        }
        let g = self.global_hkid();
        self.fill(g, pa, 0);
        for i in 0..4 {
            let r = self.machine.random().ok_or(RND_NO_ENTROPY)?;
            self.wr(g, pa + tdr::UUID + 8 * i, r);
        }
        slot.state.set(kot::ASSIGNED);
        slot.key.set(0);
        self.tdr_wr(pa, tdr::SIGNATURE, tdr::MAGIC);
        self.tdr_wr(pa, tdr::HKID, hkid);
        self.tdr_wr(pa, tdr::LIFECYCLE, lifecycle::HKID_ASSIGNED);
        self.tdr_seal(pa);
        page.assign_keep_epoch(pt::TDR, 0);
        Ok(SUCCESS)
    }

    pub(crate) fn mng_key_config(&self, regs: &Regs, lp: usize) -> Res<u64> {
        let tdr = regs.rcx;
        let _tdr = self.tdr_explicit(tdr, op::RCX, Mode::Exclusive)?;
        if self.tdr_rd(tdr, tdr::FATAL) != 0 {
            return Err(TD_FATAL);
        }
        if self.tdr_rd(tdr, tdr::LIFECYCLE) != lifecycle::HKID_ASSIGNED {
            return Err(LIFECYCLE_STATE_INCORRECT);
        }
        let mine = 1 << self.config.pkg(lp);
        let done = self.tdr_rd(tdr, tdr::PKG_BITMAP);
        if done & mine != 0 {
            return Err(KEY_CONFIGURED);
        }
        self.program_key(lp, self.tdr_rd(tdr, tdr::HKID) as u16)?;
        self.tdr_wr(tdr, tdr::PKG_BITMAP, done | mine);
        if done | mine == self.g.pkgs_keyed.get() {
            self.tdr_wr(tdr, tdr::LIFECYCLE, lifecycle::KEYS_CONFIGURED);
        }
        Ok(SUCCESS)
    }

    pub(crate) fn mng_addcx(&self, regs: &Regs) -> Res<u64> {
        let (pa, tdr) = (regs.rcx, regs.rdx);
        let _tdr = self.tdr_explicit(tdr, op::RDX, Mode::Exclusive)?;
        if self.tdr_rd(tdr, tdr::FATAL) != 0 {
            return Err(TD_FATAL);
        }
        if self.tdr_rd(tdr, tdr::LIFECYCLE) != lifecycle::KEYS_CONFIGURED {
            return Err(TD_KEYS_NOT_CONFIGURED);
        }
        let n = self.tdr_rd(tdr, tdr::NUM_TDCX);
        if n >= MAX_TDCX {
            return Err(TDCX_NUM_INCORRECT);
        }
        let page = self.page_explicit(pa, op::RCX, Mode::Exclusive, pt::NDA)?;
        let td = self.td_raw(tdr);
        let fill = match n {
            TDCX_MSR_BITMAPS => u64::MAX,
            TDCX_SEPT_ROOT => sept::INIT,
            _ => 0,
        };
        self.fill(td.hkid, pa, fill);
        if n + 1 == MIN_TDCX {
            self.machine.random().ok_or(RND_NO_ENTROPY)?;
        } else if n + 1 > MIN_TDCX
            && !opstate::allowed(leaf::MNG_ADDCX, self.tdcs_rd(&td, tdcs::OP_STATE))
        {
            return Err(OP_STATE_INCORRECT);
        }
        self.tdr_wr(tdr, tdr::TDCX_PA + 8 * n, pa);
        self.tdr_wr(tdr, tdr::NUM_TDCX, n + 1);
        self.tdr_seal(tdr);
        self.children(tdr, 1);
        page.assign_keep_epoch(pt::TDCX, tdr);
        Ok(SUCCESS)
    }

    pub(crate) fn mng_vpflushdone(&self, regs: &Regs) -> Res<u64> {
        let tdr = regs.rcx;
        let _tdr = self.tdr_explicit(tdr, op::RCX, Mode::Exclusive)?;
        let _kot = self.kot_lock()?;
        let state = self.tdr_rd(tdr, tdr::LIFECYCLE);
        if !matches!(state, lifecycle::KEYS_CONFIGURED | lifecycle::HKID_ASSIGNED) {
            return Err(LIFECYCLE_STATE_INCORRECT);
        }
        let td = self.td_raw(tdr);
        if self.tdr_rd(tdr, tdr::NUM_TDCX) >= MIN_TDCX
            && self.tdcs_rd(&td, tdcs::OP_STATE) != op_state::UNINITIALIZED
            && self.tdcs_rd(&td, tdcs::NUM_ASSOC) != 0
        {
            return Err(FLUSHVP_NOT_DONE);
        }
        let slot = &self.g.hkids[usize::from(td.hkid)];
        slot.wb_pending.set(self.g.pkgs_keyed.get());
        self.tdr_wr(tdr, tdr::LIFECYCLE, lifecycle::BLOCKED);
        slot.state.set(kot::FLUSHED);
        Ok(SUCCESS)
    }

    pub(crate) fn mng_key_freeid(&self, regs: &Regs) -> Res<u64> {
        let tdr = regs.rcx;
        let _tdr = self.tdr_explicit(tdr, op::RCX, Mode::Exclusive)?;
        if self.tdr_rd(tdr, tdr::LIFECYCLE) != lifecycle::BLOCKED {
            return Err(LIFECYCLE_STATE_INCORRECT);
        }
        let _kot = self.kot_lock()?;
        let slot = &self.g.hkids[self.td_raw(tdr).hkid as usize];
        if slot.wb_pending.get() != 0 {
            return Err(WBCACHE_NOT_COMPLETE);
        }
        slot.state.set(kot::FREE);
        self.tdr_wr(tdr, tdr::LIFECYCLE, lifecycle::TEARDOWN);
        Ok(SUCCESS)
    }

    pub(crate) fn mng_rd(&self, regs: &mut Regs, version: u8) -> Res<u64> {
        let (tdr, field) = (regs.rcx, regs.rdx);
        if version > 0 {
            regs.rdx = metadata::NONE;
        }
        regs.r8 = 0;
        if version > 1 {
            return Err(with_op(OPERAND_INVALID, op::RAX));
        }
        let mem = self.mem_td(leaf::MNG_RD, tdr, op::RCX)?;
        let (value, next) = self.td_field(&mem.td, field, version > 0)?;
        regs.r8 = value;
        if version > 0 {
            regs.rdx = next;
        }
        Ok(SUCCESS)
    }
}
