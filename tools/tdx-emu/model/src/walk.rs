// SPDX-License-Identifier: GPL-2.0
//! Walks of the secure EPT, the entry lock, and the steps all TDH.MEM leaves
//! have in common.

use crate::locks::{Mode, Side};
use crate::mem::Machine;
use crate::module::Module;
use crate::opstate;
use crate::pamt::PageGuard;
use crate::regs::{op, Regs};
use crate::sept::{self, HPA, TDEL, TDHP};
use crate::status::{
    with_op, Res, EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, GPA_RANGE_NOT_BLOCKED, OPERAND_BUSY,
    OPERAND_BUSY_HOST_PRIORITY, OPERAND_INVALID, TLB_TRACKING_NOT_DONE,
};
use crate::td::{tdcs, Td, TdLock, TDCX_L2_ROOT};

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// Address of the entry.
    pub at: u64,
    /// Its level.
    pub level: u8,
    /// Its content when it was read.
    pub raw: u64,
}

/// An S-EPT entry that is locked by this call.
pub(crate) struct Locked<'m, M: Machine> {
    m: &'m Module<M>,
    hkid: u16,
    /// Address of the entry.
    pub at: u64,
}

impl<M: Machine> Drop for Locked<'_, M> {
    fn drop(&mut self) {
        self.m.update(self.hkid, self.at, |e| (e & !TDEL, ()));
    }
}

impl<M: Machine> Locked<'_, M> {
    pub fn get(&self) -> u64 {
        self.m.rd(self.hkid, self.at)
    }
    /// Stores a new value; the lock stays until the guard is dropped.
    pub fn set(&self, entry: u64) {
        self.m.wr(self.hkid, self.at, entry | TDEL);
    }
}

/// A TD opened for a TDH.MEM leaf: the TDR locked, the states checked.
pub(crate) struct MemTd<'m, M: Machine> {
    pub td: Td,
    _op: Option<TdLock<'m, M>>,
    _tdr: PageGuard<'m, M>,
}

/// The entry a TDH.MEM leaf works on: tree and entry locked, state checked.
pub(crate) struct MemEntry<'m, M: Machine> {
    // Dropped in this order.
    pub lock: Locked<'m, M>,
    _tree: TdLock<'m, M>,
    pub gpa: u64,
    pub level: u8,
    /// The entry, read under its lock.
    pub raw: u64,
}

/// Puts the extended error information of an entry into the registers.
pub(crate) fn info(regs: &mut Regs, entry: u64, level: u8) {
    (regs.rcx, regs.rdx) = sept::arch_view(entry, level);
}

/// Splits a GPA mapping operand: (GPA, level).
pub(crate) fn mapping(raw: u64, min: u8, max: u8) -> Option<(u64, u8)> {
    let level = (raw & 7) as u8;
    let gpa = raw & HPA;
    if raw & !(HPA | 7) != 0 || level < min || level > max || !sept::aligned(gpa, level) {
        return None;
    }
    Some((gpa, level))
}

impl<M: Machine> Module<M> {
    /// The EPT pointer of a VM of the TD.
    pub(crate) fn eptp(&self, td: &Td, vm: u16) -> u64 {
        let eptp = self.tdcs_rd(td, tdcs::EPTP);
        if vm == 0 {
            return eptp;
        }
        let root = self.tdcx(td, TDCX_L2_ROOT + u64::from(vm) - 1);
        eptp & !HPA | root & HPA & !self.config.hkid_mask()
    }

    /// Highest level of the TD's S-EPT.
    pub(crate) fn top_level(&self, td: &Td) -> u8 {
        (self.tdcs_rd(td, tdcs::EPTP) >> 3 & 7) as u8
    }

    /// Position of the bit that makes an address of the TD a shared one.
    pub(crate) fn shared_bit(&self, td: &Td) -> u32 {
        if self.tdcs_rd(td, tdcs::GPAW) != 0 {
            51
        } else {
            47
        }
    }

    /// Whether `gpa` is a private address of the TD.
    pub(crate) fn is_private(&self, td: &Td, gpa: u64) -> bool {
        gpa >> self.shared_bit(td) == 0
    }

    /// Root table and top level of a VM's S-EPT.
    pub(crate) fn root(&self, td: &Td, vm: u16) -> Res<(u64, u8)> {
        let eptp = self.eptp(td, vm);
        let (table, level) = (eptp & HPA, (eptp >> 3 & 7) as u8);
        // Write-back, 4 or 5 levels, nothing else: what MNG.INIT stored.
        if eptp & !(HPA | 7 << 3) != 6 || !(3..=4).contains(&level) {
            return self.stray(td.tdcs);
        }
        self.in_tdmr(table, td.tdcs)?;
        Ok((table, level))
    }

    /// An address the module is about to follow must be in a TDMR: otherwise
    /// the structure at `from` that holds it was tampered with.
    pub(crate) fn in_tdmr(&self, pa: u64, from: u64) -> Res {
        match self.pamt_block(pa) {
            Some(_) => Ok(()),
            None => self.stray(from),
        }
    }

    /// Walks towards `target`; stops early at an entry that leads nowhere.
    pub(crate) fn walk(&self, td: &Td, vm: u16, gpa: u64, target: u8) -> Res<Walk> {
        let (mut table, mut level) = self.root(td, vm)?;
        loop {
            let at = table + (gpa >> (12 + 9 * u32::from(level)) & 511) * 8;
            let raw = self.rd(td.hkid, at);
            let end = Walk { at, level, raw };
            if level == target {
                return Ok(end);
            }
            if vm == 0 && sept::try_state(raw).is_none() {
                // No module ever stores this: somebody else wrote here.
                return self.stray(at);
            }
            if raw & sept::RWX == 0 || sept::is_leaf(raw) {
                return Ok(end);
            }
            if level == 0 {
                return self.stray(at);
            }
            table = raw & HPA;
            self.in_tdmr(table, at)?;
            level -= 1;
        }
    }

    /// The L2 alias of an L1 entry, which must exist.
    pub(crate) fn l2_entry(&self, td: &Td, vm: u16, gpa: u64, level: u8) -> Res<Walk> {
        let w = self.walk(td, vm, gpa, level)?;
        if w.level != level {
            return self.fatal();
        }
        Ok(w)
    }

    /// The bare entry lock; the error is a BUSY without operand.
    pub(crate) fn entry_take(&self, hkid: u16, at: u64, side: Side) -> Res {
        self.update(hkid, at, |e| {
            if e & TDEL != 0 {
                let hp = if side == Side::Host { TDHP } else { 0 };
                (e | hp, Err(OPERAND_BUSY))
            } else if side == Side::Host {
                ((e | TDEL) & !TDHP, Ok(()))
            } else if e & TDHP != 0 {
                (e, Err(OPERAND_BUSY_HOST_PRIORITY))
            } else {
                (e | TDEL, Ok(()))
            }
        })
    }

    /// Locks an entry.
    pub(crate) fn entry_lock(&self, hkid: u16, at: u64, side: Side) -> Res<Locked<'_, M>> {
        self.entry_take(hkid, at, side)?;
        Ok(Locked { m: self, hkid, at })
    }

    /// Steps 1 and 2 of a TDH.MEM leaf.
    pub(crate) fn mem_td(&self, leaf: u16, tdr: u64, operand: u32) -> Res<MemTd<'_, M>> {
        let page = self.tdr_explicit(tdr, operand, Mode::Shared)?;
        let (td, op_guard) = self.td_open(tdr, leaf, true)?;
        Ok(MemTd {
            td,
            _op: op_guard,
            _tdr: page,
        })
    }

    /// Steps 3 to 8 of a TDH.MEM leaf: operand, private, tree lock, walk,
    /// entry lock, state. `state_error` names the failure of the last step.
    pub(crate) fn mem_entry(
        &self,
        regs: &mut Regs,
        td: &Td,
        leaf: u16,
        operand: u64,
        levels: (u8, u8),
        tree: Mode,
    ) -> Res<MemEntry<'_, M>> {
        let bad = with_op(OPERAND_INVALID, op::RCX);
        let (gpa, level) = mapping(operand, levels.0, levels.1).ok_or(bad)?;
        if !self.is_private(td, gpa) {
            return Err(bad);
        }
        let tree = self.plain_lock(td, tdcs::SEPT_LOCK, tree, op::SEPT_TREE)?;
        let w = self.walk(td, 0, gpa, level)?;
        if w.level != level {
            info(regs, w.raw, w.level);
            return Err(with_op(EPT_WALK_FAILED, op::RCX));
        }
        let lock = self.entry_lock(td.hkid, w.at, Side::Host).map_err(|e| {
            info(regs, w.raw, w.level);
            with_op(e, op::RCX)
        })?;
        let raw = lock.get();
        let entry = MemEntry {
            lock,
            _tree: tree,
            gpa,
            level,
            raw,
        };
        if leaf == crate::regs::leaf::MEM_RANGE_BLOCK {
            // BLOCK tells blocked entries apart itself.
            return Ok(entry);
        }
        if !sept::allowed(leaf, sept::state(raw)) {
            info(regs, raw, level);
            return Err(with_op(EPT_ENTRY_STATE_INCORRECT, op::RCX));
        }
        Ok(entry)
    }

    /// TRKCHK: the entry is blocked, and no translation of it is left.
    pub(crate) fn check_tracked(&self, regs: &mut Regs, td: &Td, e: (u64, u8), bepoch: u64) -> Res {
        let st = sept::state(e.0);
        if !st.needs_tracking() || !opstate::needs_tracking(self.tdcs_rd(td, tdcs::OP_STATE)) {
            return Ok(());
        }
        if !st.any_blocked() {
            info(regs, e.0, e.1);
            return Err(with_op(GPA_RANGE_NOT_BLOCKED, op::RCX));
        }
        if !self.is_tracked(td, bepoch) {
            return Err(with_op(TLB_TRACKING_NOT_DONE, op::RCX));
        }
        Ok(())
    }

    /// Translates a guest access: the page's address, or the entry at which it
    /// faults and its level.
    pub(crate) fn translate(&self, td: &Td, gpa: u64, access: u64) -> Res<Result<u64, Walk>> {
        let w = self.walk(td, 0, gpa, 0)?;
        if w.raw & sept::RWX == 0 || w.raw & access != access || !sept::is_leaf(w.raw) {
            return Ok(Err(w));
        }
        let pa = sept::leaf_hpa(w.raw, gpa, w.level);
        self.in_tdmr(pa, w.at)?;
        Ok(Ok(pa))
    }
}
