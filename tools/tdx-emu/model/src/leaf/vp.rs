// SPDX-License-Identifier: GPL-2.0
//! TDH.VP leaves except ENTER.

use super::metadata;
use crate::locks::Mode;
use crate::mem::Machine;
use crate::module::Module;
use crate::opstate::lifecycle;
use crate::pamt::{pt, PageGuard};
use crate::regs::{leaf, op, Regs};
use crate::status::{
    with_op, Res, MAX_VCPUS_EXCEEDED, OPERAND_INVALID, SUCCESS, TDCX_NUM_INCORRECT,
    TD_KEYS_NOT_CONFIGURED, VCPU_ASSOCIATED, VCPU_NOT_ASSOCIATED, VCPU_STATE_INCORRECT,
    X2APIC_ID_NOT_UNIQUE,
};
use crate::td::{last_exit, tdcs, tdr, tdvps, vcpu, Td, TdLock, MAX_TDVPS, NO_LP};

/// A vCPU operand: TDVPR and TDR locked, the TD's state checked.
pub(super) struct VpTd<'m, M: Machine> {
    pub td: Td,
    _op: Option<TdLock<'m, M>>,
    pub tdr: PageGuard<'m, M>,
    pub page: PageGuard<'m, M>,
}

impl<M: Machine> Module<M> {
    pub(super) fn vp_open(
        &self,
        leaf_no: u16,
        tdvpr: u64,
        operand: u32,
        mode: Mode,
        tdr_mode: Mode,
    ) -> Res<VpTd<'_, M>> {
        let page = self.page_explicit(tdvpr, operand, mode, pt::TDVPR)?;
        let tdr_pa = page.entry().owner;
        let tdr = self.tdr_implicit(tdr_pa, tdr_mode)?;
        let (td, op_guard) = self.td_open(tdr_pa, leaf_no, true)?;
        Ok(VpTd {
            td,
            _op: op_guard,
            tdr,
            page,
        })
    }

    /// Associates a vCPU with a logical processor. Returns whether it was not
    /// associated before.
    pub(super) fn vp_associate(&self, td: &Td, tdvpr: u64, lp: usize) -> Res<bool> {
        let me = lp as u64;
        let was = self.update(td.hkid, tdvpr + tdvps::ASSOC_LP, |w| {
            (if w == NO_LP { me } else { w }, w)
        });
        if was != NO_LP && was != me {
            return Err(VCPU_ASSOCIATED);
        }
        if was == NO_LP {
            self.add(td.hkid, td.tdcs + tdcs::NUM_ASSOC, 1);
        }
        Ok(was == NO_LP)
    }

    pub(crate) fn vp_create(&self, regs: &Regs) -> Res<u64> {
        let (pa, tdr) = (regs.rcx, regs.rdx);
        let mem = self.mem_td(leaf::VP_CREATE, tdr, op::RDX)?;
        let td = &mem.td;
        let page = self.page_explicit(pa, op::RCX, Mode::Exclusive, pt::NDA)?;
        self.fill(td.hkid, pa, 0);
        self.vp_wr(td, pa, tdvps::SIGNATURE, tdvps::MAGIC);
        self.vp_wr(td, pa, tdvps::NUM_PAGES, 1);
        self.vp_wr(td, pa, tdvps::ASSOC_LP, NO_LP);
        self.vp_wr(td, pa, tdvps::PAGES, pa);
        self.children(tdr, 1);
        page.assign_keep_epoch(pt::TDVPR, tdr);
        Ok(SUCCESS)
    }

    pub(crate) fn vp_addcx(&self, regs: &Regs) -> Res<u64> {
        let (pa, tdvpr) = (regs.rcx, regs.rdx);
        let vp = self.vp_open(
            leaf::VP_ADDCX,
            tdvpr,
            op::RDX,
            Mode::Exclusive,
            Mode::Shared,
        )?;
        let td = &vp.td;
        if self.vp_rd(td, tdvpr, tdvps::STATE) != vcpu::UNINITIALIZED {
            return Err(VCPU_STATE_INCORRECT);
        }
        let n = self.vp_rd(td, tdvpr, tdvps::NUM_PAGES);
        if n >= MAX_TDVPS {
            return Err(TDCX_NUM_INCORRECT);
        }
        let page = self.page_explicit(pa, op::RCX, Mode::Exclusive, pt::NDA)?;
        self.fill(td.hkid, pa, 0);
        self.vp_wr(td, tdvpr, tdvps::PAGES + 8 * n, pa);
        self.vp_wr(td, tdvpr, tdvps::NUM_PAGES, n + 1);
        self.children(td.tdr, 1);
        page.assign_keep_epoch(pt::TDCX, td.tdr);
        Ok(SUCCESS)
    }

    pub(crate) fn vp_init(&self, regs: &Regs, version: u8, lp: usize) -> Res<u64> {
        let tdvpr = regs.rcx;
        if version > 1 {
            return Err(with_op(OPERAND_INVALID, op::RAX));
        }
        let tdr_mode = if version == 0 {
            Mode::Shared
        } else {
            Mode::Exclusive
        };
        let vp = self.vp_open(leaf::VP_INIT, tdvpr, op::RCX, Mode::Exclusive, tdr_mode)?;
        let td = &vp.td;
        self.vp_complete(td, tdvpr)?;
        if self.vp_rd(td, tdvpr, tdvps::STATE) != vcpu::UNINITIALIZED {
            return Err(VCPU_STATE_INCORRECT);
        }
        let count = td.tdcs + tdcs::NUM_VCPUS;
        let index = self.add(td.hkid, count, 1);
        let undo = |status| {
            self.add(td.hkid, count, u64::MAX);
            Err(status)
        };
        if index >= self.tdcs_rd(td, tdcs::MAX_VCPUS) {
            return undo(MAX_VCPUS_EXCEEDED);
        }
        // Version 0 gives no x2APIC id: the slot keeps what it has, zero.
        if version > 0 {
            let id = regs.r8;
            if id >> 32 != 0 {
                return undo(with_op(OPERAND_INVALID, op::R8));
            }
            let ids = self.tdcx(td, tdcs::X2APIC_PAGE);
            let at = |i: u64| (ids + i / 2 * 8, 32 * (i & 1));
            let slots = index.min(1023);
            let taken = (0..slots).any(|i| {
                let (pa, shift) = at(i);
                self.rd(td.hkid, pa) >> shift & 0xFFFF_FFFF == id
            });
            if taken {
                // The count of vCPUs is not taken back here.
                return Err(X2APIC_ID_NOT_UNIQUE | id);
            }
            let (pa, shift) = at(slots);
            self.update(td.hkid, pa, |w| {
                (w & !(0xFFFF_FFFF << shift) | id << shift, ())
            });
            self.add(td.hkid, td.tdcs + tdcs::NUM_X2APIC_IDS, 1);
        }
        self.vp_wr(td, tdvpr, tdvps::VCPU_INDEX, index);
        self.vp_wr(td, tdvpr, tdvps::LAST_EXIT_TSC, self.machine.tsc(lp));
        self.guest_reset(td, tdvpr, index, regs.rdx);
        self.vp_wr(td, tdvpr, tdvps::STATE, vcpu::READY);
        self.vp_wr(td, tdvpr, tdvps::LAST_TD_EXIT, last_exit::ASYNC_FAULT);
        self.vp_wr(td, tdvpr, tdvps::ASSOC_LP, lp as u64);
        self.add(td.hkid, td.tdcs + tdcs::NUM_ASSOC, 1);
        Ok(SUCCESS)
    }

    /// The x2APIC id of a vCPU.
    pub(super) fn x2apic_id(&self, td: &Td, index: u64) -> u32 {
        let ids = self.tdcx(td, tdcs::X2APIC_PAGE);
        (self.rd(td.hkid, ids + index.min(1023) / 2 * 8) >> (32 * (index & 1))) as u32
    }

    pub(crate) fn vp_flush(&self, regs: &Regs, lp: usize) -> Res<u64> {
        let tdvpr = regs.rcx;
        let page = self.page_explicit(tdvpr, op::RCX, Mode::Exclusive, pt::TDVPR)?;
        let tdr_pa = page.entry().owner;
        let _tdr = self.tdr_implicit(tdr_pa, Mode::Shared)?;
        if self.tdr_rd(tdr_pa, tdr::LIFECYCLE) != lifecycle::KEYS_CONFIGURED {
            return Err(TD_KEYS_NOT_CONFIGURED);
        }
        let td = self.td_raw(tdr_pa);
        self.vp_complete(&td, tdvpr)?;
        if self.vp_rd(&td, tdvpr, tdvps::ASSOC_LP) != lp as u64 {
            return Err(VCPU_NOT_ASSOCIATED);
        }
        self.flush_translations(lp, &td);
        self.vp_wr(&td, tdvpr, tdvps::ASSOC_LP, NO_LP);
        self.add(td.hkid, td.tdcs + tdcs::NUM_ASSOC, u64::MAX);
        self.g.lp[lp].last_tdvpr.set(0);
        Ok(SUCCESS)
    }

    /// VP.RD and VP.WR.
    pub(crate) fn vp_rdwr(&self, regs: &mut Regs, version: u8, lp: usize, wr: bool) -> Res<u64> {
        let (tdvpr, field, data) = (regs.rcx, regs.rdx, regs.r8);
        if !wr && version > 0 {
            regs.rdx = metadata::NONE;
        }
        regs.r8 = 0;
        if !wr && version > 1 {
            return Err(with_op(OPERAND_INVALID, op::RAX));
        }
        let leaf_no = if wr { leaf::VP_WR } else { leaf::VP_RD };
        let vp = self.vp_open(leaf_no, tdvpr, op::RCX, Mode::Shared, Mode::Shared)?;
        let td = &vp.td;
        self.vp_complete(td, tdvpr)?;
        let state = self.vp_rd(td, tdvpr, tdvps::STATE);
        if !(state == vcpu::READY || state == vcpu::DISABLED && !wr) {
            return Err(VCPU_STATE_INCORRECT);
        }
        self.vp_associate(td, tdvpr, lp)?;
        if wr {
            regs.r8 = self.vp_field_write(td, tdvpr, field, data, regs.r9)?;
            return Ok(SUCCESS);
        }
        let (value, next) = self.vp_field(td, tdvpr, field, version > 0)?;
        regs.r8 = value;
        if version > 0 {
            regs.rdx = next;
        }
        Ok(SUCCESS)
    }
}
