// SPDX-License-Identifier: GPL-2.0
//! TDH.MEM.PAGE.DEMOTE and PROMOTE: splitting and merging large pages.

use super::mem_sept::{tdr_and_flag, NONE};
use crate::locks::{Mode, Side};
use crate::mem::Machine;
use crate::module::Module;
use crate::pamt::{pt, PageGuard};
use crate::regs::{leaf, op, Regs};
use crate::sept::{self, State, HPA, TDEL, TDHP};
use crate::sept_l2;
use crate::status::{
    with_l2, with_op, Res, EPT_INVALID_PROMOTE_CONDITIONS, INTERRUPTED_RESTARTABLE,
    L2_SEPT_PAGE_NOT_PROVIDED, L2_SEPT_WALK_FAILED, OPERAND_INVALID, SUCCESS,
};
use crate::td::Td;
use crate::walk::info;

const FLAG: u64 = 1 << 63;

impl<M: Machine> Module<M> {
    /// Fills a table with 512 consecutive entries made from one large one.
    fn split_into(&self, td: &Td, table: u64, entry: u64, hpa: u64, level: u8) {
        let step = sept::level_size(level - 1);
        for i in 0..512 {
            let e = entry & !HPA | (hpa + i * step);
            self.wr(td.hkid, table + 8 * i, e);
        }
    }

    pub(crate) fn mem_page_demote(&self, regs: &mut Regs, lp: usize) -> Res<u64> {
        let input = *regs;
        let mut page = [regs.r8, regs.r9, regs.r10, regs.r11];
        (regs.rcx, regs.rdx) = (0, 0);
        let (tdr, l2_add) = tdr_and_flag(input.rdx).ok_or(with_op(OPERAND_INVALID, op::RDX))?;
        let mem = self.mem_td(leaf::MEM_PAGE_DEMOTE, tdr, op::RDX)?;
        let td = &mem.td;
        let e = self.mem_entry(
            regs,
            td,
            leaf::MEM_PAGE_DEMOTE,
            input.rcx,
            (1, 2),
            Mode::Shared,
        )?;
        let raw = sept::without_progress(e.raw, e.level);
        let hpa = sept::leaf_hpa(raw, e.gpa, e.level);
        let at = self.page_implicit(hpa, e.level)?;
        self.check_tracked(regs, td, (raw, e.level), self.pamt_entry(at).bepoch)?;
        let mut guard: [Option<PageGuard<'_, M>>; 4] = [None, None, None, None];
        guard[0] = Some(self.page_explicit(page[0], op::R8, Mode::Exclusive, pt::NDA)?);
        let l2_vms = self.l2_vms(td);
        for vm in 1..=l2_vms {
            let i = usize::from(vm);
            let operand = op::R8 + u32::from(vm);
            if page[i] == NONE {
                if sept::aliased(raw, vm) {
                    return Err(with_op(L2_SEPT_PAGE_NOT_PROVIDED, operand));
                }
            } else if !l2_add || sept::aliased(raw, vm) {
                let pa = page[i] & !FLAG;
                guard[i] = Some(self.page_explicit(pa, operand, Mode::Exclusive, pt::NDA)?);
            } else {
                page[i] |= FLAG;
            }
        }
        let child = sept::unblocked(raw) & !TDEL;
        self.split_into(td, page[0], child, hpa, e.level);
        let restart = |regs: &mut Regs| {
            (regs.rcx, regs.rdx) = (input.rcx, input.rdx);
            Err(INTERRUPTED_RESTARTABLE)
        };
        let mut l2_at = [0; 4];
        for vm in 1..=l2_vms {
            let i = usize::from(vm);
            if guard[i].is_none() {
                continue;
            }
            if self.machine.interrupt_pending(lp) {
                return restart(regs);
            }
            let w = self.walk(td, vm, e.gpa, e.level)?;
            if w.level != e.level {
                let debug = self.is_debug(td);
                (regs.rcx, regs.rdx) = sept_l2::arch_view(w.raw, vm, debug, w.level);
                return Err(with_l2(L2_SEPT_WALK_FAILED, vm, w.level));
            }
            l2_at[i] = w.at;
            let table = page[i] & !FLAG;
            if sept::aliased(child, vm) {
                let alias = if sept::state(child).any_pending() {
                    w.raw
                } else {
                    sept_l2::unblocked(w.raw)
                };
                self.split_into(td, table, alias, hpa, e.level);
            } else {
                self.fill(td.hkid, table, sept_l2::INIT);
            }
        }
        if self.machine.interrupt_pending(lp) {
            return restart(regs);
        }
        self.pamt_demote(hpa, e.level)
            .map_err(|s| with_op(s, op::RCX))?;
        let mut parent = sept::table_entry(page[0]);
        for (i, g) in guard.iter().enumerate() {
            let Some(g) = g else { continue };
            g.assign_keep_epoch(pt::EPT, tdr);
            self.children(tdr, 1);
            if i > 0 {
                self.wr(td.hkid, l2_at[i], sept_l2::table_entry(page[i]));
                parent |= sept::alias_bit(i as u16);
            }
        }
        e.lock.set(parent);
        (regs.r9, regs.r10, regs.r11) = (page[1], page[2], page[3]);
        Ok(SUCCESS)
    }

    /// Locks the 512 children one by one and checks that they can be merged.
    /// Returns how many were locked.
    fn lock_children(&self, td: &Td, table: u64, level: u8) -> (u64, Res) {
        let bad = Err(EPT_INVALID_PROMOTE_CONDITIONS);
        let step = sept::level_size(level - 1);
        let mut first = 0;
        for i in 0..512 {
            let at = table + 8 * i;
            if let Err(e) = self.entry_take(td.hkid, at, Side::Host) {
                return (i, Err(e));
            }
            let e = sept::without_progress(self.rd(td.hkid, at), level - 1);
            if i == 0 {
                let hpa = sept::leaf_hpa(e, 0, level - 1);
                if !sept::aligned(hpa, level)
                    || !matches!(sept::try_state(e), Some(State::Mapped | State::Pending))
                {
                    return (1, bad);
                }
                first = e;
            } else if e != first + i * step {
                return (i + 1, bad);
            }
        }
        (512, Ok(()))
    }

    fn l2_mergeable(&self, td: &Td, table: u64, level: u8) -> bool {
        let first = self.rd(td.hkid, table);
        let hpa = sept::leaf_hpa(first, 0, level - 1);
        if !sept_l2::is_free(first) && (!sept::aligned(hpa, level) || !sept::is_leaf(first)) {
            return false;
        }
        (1..512).all(|i| self.rd(td.hkid, table + 8 * i) & !HPA == first & !HPA)
    }

    pub(crate) fn mem_page_promote(&self, regs: &mut Regs, version: u8, lp: usize) -> Res<u64> {
        let input = *regs;
        let tdr = regs.rdx;
        (regs.rcx, regs.rdx) = (0, 0);
        if version > 0 {
            (regs.r9, regs.r10, regs.r11) = (NONE, NONE, NONE);
        }
        if version > 1 {
            return Err(with_op(OPERAND_INVALID, op::RAX));
        }
        let mem = self.mem_td(leaf::MEM_PAGE_PROMOTE, tdr, op::RDX)?;
        let td = &mem.td;
        let e = self.mem_entry(
            regs,
            td,
            leaf::MEM_PAGE_PROMOTE,
            input.rcx,
            (1, 2),
            Mode::Shared,
        )?;
        let table = e.raw & HPA;
        let page = self.page_implicit_lock(table, 0, Mode::Exclusive, op::RCX)?;
        self.check_tracked(regs, td, (e.raw, e.level), page.entry().bepoch)?;

        let (locked, ok) = self.lock_children(td, table, e.level);
        let r = match ok {
            Ok(()) => self.promote_locked(regs, td, &e, table, version, lp, &input),
            Err(s) => {
                info(regs, e.raw, e.level);
                Err(with_op(s, op::RCX))
            }
        };
        match r {
            Ok(merged) => {
                e.lock.set(merged & !TDHP);
                self.children(tdr, -1);
                page.free();
                regs.rcx = table;
                Ok(SUCCESS)
            }
            Err(s) => {
                for i in 0..locked {
                    self.update(td.hkid, table + 8 * i, |c| (c & !TDEL, ()));
                }
                Err(s)
            }
        }
    }

    /// The rest of PROMOTE with all children locked: L2 tables, interrupt,
    /// PAMT. Returns the merged entry.
    #[allow(clippy::too_many_arguments)]
    fn promote_locked(
        &self,
        regs: &mut Regs,
        td: &Td,
        e: &crate::walk::MemEntry<'_, M>,
        table: u64,
        version: u8,
        lp: usize,
        input: &Regs,
    ) -> Res<u64> {
        let restart = |regs: &mut Regs| {
            (regs.rcx, regs.rdx) = (input.rcx, input.rdx);
            Err(INTERRUPTED_RESTARTABLE)
        };
        let mut aliases: [Option<(u64, u64, PageGuard<'_, M>)>; 4] = [None, None, None, None];
        for vm in 1..=self.l2_vms(td) {
            if !sept::aliased(e.raw, vm) {
                continue;
            }
            if self.machine.interrupt_pending(lp) {
                return restart(regs);
            }
            let w = self.l2_entry(td, vm, e.gpa, e.level)?;
            if sept::is_leaf(w.raw) || sept_l2::is_free(w.raw) {
                return self.fatal();
            }
            let pa = w.raw & HPA;
            let guard = self.page_implicit_lock(pa, 0, Mode::Exclusive, op::RCX)?;
            if !self.l2_mergeable(td, pa, e.level) {
                info(regs, e.raw, e.level);
                return Err(with_op(EPT_INVALID_PROMOTE_CONDITIONS, op::RCX));
            }
            aliases[usize::from(vm)] = Some((w.at, pa, guard));
        }
        if self.machine.interrupt_pending(lp) {
            return restart(regs);
        }
        let first = self.rd(td.hkid, table);
        let hpa = sept::leaf_hpa(first, 0, e.level - 1);
        self.pamt_promote(hpa, e.level)
            .map_err(|s| with_op(s, op::RCX))?;
        for (vm, alias) in aliases.iter().enumerate() {
            if let Some((at, pa, guard)) = alias {
                self.wr(td.hkid, *at, self.rd(td.hkid, *pa));
                self.children(td.tdr, -1);
                guard.free();
                if version > 0 {
                    regs.set_page_operand(vm, *pa);
                }
            }
        }
        Ok(first)
    }
}
