// SPDX-License-Identifier: GPL-2.0
//! TDH.PHYMEM.PAGE.WBINVD, RDMD, RECLAIM and TDH.PHYMEM.CACHE.WB.

use crate::locks::{self, Mode};
use crate::mem::{Machine, PAGE};
use crate::module::{kot, Module};
use crate::opstate::lifecycle;
use crate::pamt::{pt, PageGuard};
use crate::regs::{op, Regs};
use crate::sept;
use crate::status::{
    with_op, Res, INTERRUPTED_RESUMABLE, LIFECYCLE_STATE_INCORRECT, NO_HKID_READY_TO_WBCACHE,
    OPERAND_ADDR_RANGE_ERROR, OPERAND_BUSY, OPERAND_INVALID, PAGE_METADATA_INCORRECT, SUCCESS,
    TD_ASSOCIATED_PAGES_EXIST, WBCACHE_RESUME_ERROR,
};
use crate::td::tdr;

impl<M: Machine> Module<M> {
    pub(crate) fn phymem_page_wbinvd(&self, regs: &Regs) -> Res<u64> {
        let hkid = self.config.hkid_of(regs.rcx);
        let pa = regs.rcx & !self.config.hkid_mask();
        let _page = self.page_explicit(pa, op::RCX, Mode::Shared, pt::NDA)?;
        self.machine.flush_page(pa, hkid);
        Ok(SUCCESS)
    }

    /// The page of RDMD and RECLAIM: of any type and size.
    fn page_any(&self, regs: &mut Regs, mode: Mode) -> Res<(u64, PageGuard<'_, M>)> {
        let pa = regs.rcx;
        (regs.rcx, regs.rdx) = (0, 0);
        (regs.r8, regs.r9, regs.r10, regs.r11) = (0, 0, 0, 0);
        if !self.hpa_ok(pa, PAGE) {
            return Err(with_op(OPERAND_INVALID, op::RCX));
        }
        let block = self
            .pamt_block(pa)
            .ok_or(with_op(OPERAND_ADDR_RANGE_ERROR, op::RCX))?;
        let page = self
            .pamt_walk(block, mode, None)
            .map_err(|e| with_op(e, op::RCX))?;
        Ok((pa, page))
    }

    pub(crate) fn phymem_page_rdmd(&self, regs: &mut Regs) -> Res<u64> {
        let (_, page) = self.page_any(regs, Mode::Shared)?;
        let e = page.entry();
        regs.rcx = e.pt.into();
        regs.rdx = e.owner;
        regs.r8 = page.level.into();
        if matches!(e.pt, pt::REG | pt::EPT) {
            regs.r9 = e.bepoch;
        }
        Ok(SUCCESS)
    }

    pub(crate) fn phymem_page_reclaim(&self, regs: &mut Regs) -> Res<u64> {
        let (pa, page) = self.page_any(regs, Mode::Exclusive)?;
        let e = page.entry();
        if matches!(e.pt, pt::NDA | pt::RSVD) {
            return Err(with_op(PAGE_METADATA_INCORRECT, op::RCX));
        }
        regs.rcx = e.pt.into();
        regs.rdx = e.owner;
        regs.r8 = page.level.into();
        if !sept::aligned(pa, page.level) {
            return Err(with_op(OPERAND_INVALID, op::RCX));
        }
        let owner = if e.pt == pt::TDR { pa } else { e.owner };
        let _tdr = if e.pt == pt::TDR {
            self.tdr_sane(pa)?;
            None
        } else {
            Some(self.tdr_implicit(owner, Mode::Shared)?)
        };
        if self.tdr_rd(owner, tdr::LIFECYCLE) != lifecycle::TEARDOWN {
            return Err(LIFECYCLE_STATE_INCORRECT);
        }
        if e.pt == pt::TDR {
            if self.tdr_rd(owner, tdr::CHLDCNT) != 0 {
                return Err(TD_ASSOCIATED_PAGES_EXIST);
            }
        } else {
            self.children(owner, -(1 << (9 * page.level)));
        }
        page.free();
        self.unseal(pa, sept::level_size(page.level));
        Ok(SUCCESS)
    }

    pub(crate) fn phymem_cache_wb(&self, regs: &Regs, lp: usize) -> Res<u64> {
        if regs.rcx > 1 {
            return Err(with_op(OPERAND_INVALID, op::RCX));
        }
        let wb = &self.g.wb[self.config.pkg(lp)];
        let taken = wb.lock.step(|w| (1, w == 0));
        if !taken {
            return Err(with_op(OPERAND_BUSY, op::WBCACHE));
        }
        let r = if let Err(e) = self.g.kot_lock.step(|w| locks::take(w, Mode::Shared)) {
            Err(with_op(e, op::KOT))
        } else {
            let r = self.cache_wb_locked(regs.rcx == 1, lp);
            self.g
                .kot_lock
                .step(|w| (locks::release(w, Mode::Shared), ()));
            r
        };
        wb.lock.set(0);
        r
    }

    fn cache_wb_locked(&self, resume: bool, lp: usize) -> Res<u64> {
        let pkg = self.config.pkg(lp);
        let wb = &self.g.wb[pkg];
        let hkids = &self.g.hkids[..self.config.hkids()];
        let mut point;
        if resume {
            point = wb.intr_point.get();
            if point == 0 {
                return Err(WBCACHE_RESUME_ERROR);
            }
        } else {
            wb.intr_point.set(0);
            point = 0;
            if hkids.iter().all(|h| h.state.get() != kot::FLUSHED) {
                return Err(NO_HKID_READY_TO_WBCACHE);
            }
            for (i, c) in wb.covers.iter().enumerate() {
                let set = hkids
                    .iter()
                    .enumerate()
                    .filter(|(n, h)| n / 64 == i && h.state.get() == kot::FLUSHED);
                c.set(set.fold(0, |m, (n, _)| m | 1 << (n % 64)));
            }
        }
        loop {
            point += 1;
            if point >= self.config.wb_sub_blocks {
                break;
            }
            if self.machine.interrupt_pending(lp) {
                wb.intr_point.set(point);
                return Err(INTERRUPTED_RESUMABLE);
            }
        }
        wb.intr_point.set(0);
        for (n, h) in hkids.iter().enumerate() {
            if wb.covers[n / 64].get() >> (n % 64) & 1 != 0 {
                h.wb_pending.and(!(1 << pkg));
            }
        }
        Ok(SUCCESS)
    }
}
