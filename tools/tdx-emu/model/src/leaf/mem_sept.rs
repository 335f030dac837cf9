// SPDX-License-Identifier: GPL-2.0
//! TDH.MEM.SEPT.ADD, REMOVE and RD.

use crate::locks::Mode;
use crate::mem::Machine;
use crate::module::Module;
use crate::pamt::{pt, PageGuard};
use crate::regs::{leaf, op, Regs};
use crate::sept::{self, State, HPA};
use crate::sept_l2;
use crate::status::{
    with_l2, with_op, Res, EPT_ENTRY_STATE_INCORRECT, EPT_PAGE_NOT_FREE, INTERRUPTED_RESUMABLE,
    L2_SEPT_ENTRY_NOT_FREE, L2_SEPT_WALK_FAILED, OPERAND_INVALID, SUCCESS,
};
use crate::td::Td;
use crate::walk::{info, MemEntry};

/// A page operand that names no page.
pub(super) const NONE: u64 = u64::MAX;
const FLAG: u64 = 1 << 63;

/// Splits a TDR operand with flags: (TDR, bit 0). Bits 11:1 and 63:52 must be
/// zero.
pub(super) fn tdr_and_flag(raw: u64) -> Option<(u64, bool)> {
    (raw & !(HPA | 1) == 0).then_some((raw & HPA, raw & 1 != 0))
}

/// What SEPT.ADD was asked to do, by VM.
struct Pages<'m, M: Machine> {
    pa: [u64; 4],
    /// What the registers will show.
    out: [u64; 4],
    guard: [Option<PageGuard<'m, M>>; 4],
    /// The L2 entries to fill in.
    at: [u64; 4],
}

impl<M: Machine> Module<M> {
    pub(crate) fn mem_sept_add(&self, regs: &mut Regs, version: u8, lp: usize) -> Res<u64> {
        let (operand, tdr_flags) = (regs.rcx, regs.rdx);
        let mut pa = [regs.r8, 0, 0, 0];
        if version > 0 {
            pa = [regs.r8, regs.r9, regs.r10, regs.r11];
        }
        (regs.rcx, regs.rdx) = (0, 0);
        if version > 1 {
            return Err(with_op(OPERAND_INVALID, op::RAX));
        }
        for p in &mut pa {
            if *p != NONE {
                *p &= !FLAG;
            }
        }
        let mut pages = Pages {
            pa,
            out: pa,
            guard: [None, None, None, None],
            at: [0; 4],
        };
        let r = self.sept_add_inner(regs, (operand, tdr_flags), version, lp, &mut pages);
        if version > 0 {
            for (vm, out) in pages.out.iter().enumerate() {
                regs.set_page_operand(vm, *out);
            }
        }
        r
    }

    fn sept_add_inner<'m>(
        &'m self,
        regs: &mut Regs,
        (operand, tdr_flags): (u64, u64),
        version: u8,
        lp: usize,
        p: &mut Pages<'m, M>,
    ) -> Res<u64> {
        let (tdr, existing) = tdr_and_flag(tdr_flags).ok_or(with_op(OPERAND_INVALID, op::RDX))?;
        let mem = self.mem_td(leaf::MEM_SEPT_ADD, tdr, op::RDX)?;
        let td = &mem.td;
        let levels = (1, self.top_level(td));
        let e = self.mem_entry(regs, td, leaf::MEM_SEPT_ADD, operand, levels, Mode::Shared)?;
        let mapped = sept::try_state(e.raw) == Some(State::NlMapped);
        let incorrect = with_op(EPT_ENTRY_STATE_INCORRECT, op::RCX);
        if p.pa[0] == NONE {
            if version == 0 {
                return Err(with_op(OPERAND_INVALID, op::R8));
            }
            if !mapped {
                info(regs, e.raw, e.level);
                return Err(incorrect);
            }
        } else if !mapped {
            p.guard[0] = Some(self.page_explicit(p.pa[0], op::R8, Mode::Exclusive, pt::NDA)?);
        } else if existing {
            p.out[0] |= FLAG;
        } else {
            info(regs, e.raw, e.level);
            return Err(incorrect);
        }
        if version > 0 {
            self.sept_add_l2_check(regs, td, &e, existing, p)?;
        }
        let mut added = false;
        if p.out[0] & FLAG == 0 {
            self.new_table(td, p.pa[0], p.guard[0].as_ref(), sept::INIT);
            e.lock.set(sept::table_entry(p.pa[0]));
            p.out[0] = NONE;
            added = true;
        }
        if version > 0 {
            for vm in 1..4u16 {
                let i = usize::from(vm);
                if p.out[i] & FLAG != 0 {
                    continue;
                }
                if added && self.machine.interrupt_pending(lp) {
                    (regs.rcx, regs.rdx) = (operand, tdr_flags);
                    return Err(INTERRUPTED_RESUMABLE);
                }
                self.new_table(td, p.pa[i], p.guard[i].as_ref(), sept_l2::INIT);
                e.lock.set(e.lock.get() | sept::alias_bit(vm));
                self.wr(td.hkid, p.at[i], sept_l2::table_entry(p.pa[i]));
                p.out[i] = NONE;
                added = true;
            }
        }
        Ok(SUCCESS)
    }

    fn sept_add_l2_check<'m>(
        &'m self,
        regs: &mut Regs,
        td: &Td,
        e: &MemEntry<'_, M>,
        existing: bool,
        p: &mut Pages<'m, M>,
    ) -> Res {
        let debug = self.is_debug(td);
        for vm in 1..4u16 {
            let i = usize::from(vm);
            if p.pa[i] == NONE {
                continue;
            }
            let operand = op::R8 + u32::from(vm);
            if vm > self.l2_vms(td) {
                return Err(with_op(OPERAND_INVALID, operand));
            }
            let w = self.walk(td, vm, e.gpa, e.level)?;
            if w.level != e.level {
                (regs.rcx, regs.rdx) = sept_l2::arch_view(w.raw, vm, debug, w.level);
                return Err(with_l2(L2_SEPT_WALK_FAILED, vm, w.level));
            }
            p.at[i] = w.at;
            if sept_l2::is_free(w.raw) {
                p.guard[i] =
                    Some(self.page_explicit(p.pa[i], operand, Mode::Exclusive, pt::NDA)?);
            } else if existing {
                p.out[i] |= FLAG;
            } else {
                (regs.rcx, regs.rdx) = sept_l2::arch_view(w.raw, vm, debug, w.level);
                return Err(with_l2(L2_SEPT_ENTRY_NOT_FREE, vm, w.level));
            }
        }
        Ok(())
    }

    fn new_table(&self, td: &Td, pa: u64, page: Option<&PageGuard<'_, M>>, init: u64) {
        self.fill(td.hkid, pa, init);
        if let Some(page) = page {
            page.assign(pt::EPT, td.tdr);
        }
        self.children(td.tdr, 1);
    }

    pub(crate) fn mem_sept_remove(&self, regs: &mut Regs, version: u8) -> Res<u64> {
        let (operand, tdr) = (regs.rcx, regs.rdx);
        (regs.rcx, regs.rdx) = (0, 0);
        if version > 0 {
            (regs.r9, regs.r10, regs.r11) = (NONE, NONE, NONE);
        }
        if version > 1 {
            return Err(with_op(OPERAND_INVALID, op::RAX));
        }
        let mem = self.mem_td(leaf::MEM_SEPT_REMOVE, tdr, op::RDX)?;
        let td = &mem.td;
        let levels = (1, self.top_level(td));
        let e = self.mem_entry(
            regs,
            td,
            leaf::MEM_SEPT_REMOVE,
            operand,
            levels,
            Mode::Exclusive,
        )?;
        let table = e.raw & HPA;
        let page = self.page_implicit_lock(table, 0, Mode::Exclusive, op::RCX)?;
        self.check_tracked(regs, td, (e.raw, e.level), page.entry().bepoch)?;
        for i in 0..512 {
            if sept::try_state(self.rd(td.hkid, table + 8 * i)) != Some(State::Free) {
                info(regs, e.raw, e.level);
                return Err(with_op(EPT_PAGE_NOT_FREE, op::RCX));
            }
        }
        let mut aliases: [Option<(u64, u64, PageGuard<'_, M>)>; 4] = [None, None, None, None];
        for vm in 1..=self.l2_vms(td) {
            if !sept::aliased(e.raw, vm) {
                continue;
            }
            let w = self.l2_entry(td, vm, e.gpa, e.level)?;
            if sept_l2::is_free(w.raw) {
                return self.fatal();
            }
            let pa = w.raw & HPA;
            let guard = self.page_implicit_lock(pa, 0, Mode::Exclusive, op::RCX)?;
            aliases[usize::from(vm)] = Some((w.at, pa, guard));
        }
        for (vm, alias) in aliases.iter().enumerate() {
            if let Some((at, pa, guard)) = alias {
                self.wr(td.hkid, *at, sept_l2::INIT);
                self.children(tdr, -1);
                guard.free();
                if version > 0 {
                    regs.set_page_operand(vm, *pa);
                }
            }
        }
        e.lock.set(sept::INIT);
        self.children(tdr, -1);
        page.free();
        regs.rcx = table;
        Ok(SUCCESS)
    }

    pub(crate) fn mem_sept_rd(&self, regs: &mut Regs) -> Res<u64> {
        let (operand, tdr, attrs) = (regs.rcx, regs.rdx & !1, regs.rdx & 1 != 0);
        (regs.rcx, regs.rdx) = (0, 0);
        let mem = self.mem_td(leaf::MEM_SEPT_RD, tdr, op::RDX)?;
        let td = &mem.td;
        if attrs && !self.is_debug(td) {
            return Err(with_op(OPERAND_INVALID, op::RDX));
        }
        let levels = (0, self.top_level(td));
        let e = self.mem_entry(regs, td, leaf::MEM_SEPT_RD, operand, levels, Mode::Shared)?;
        if attrs {
            let st = sept::try_state(e.raw);
            let mut all = 0;
            for vm in 1..=self.l2_vms(td) {
                if st != Some(State::Free) && sept::aliased(e.raw, vm) {
                    let w = self.l2_entry(td, vm, e.gpa, e.level)?;
                    let w_blocked = st.is_some_and(State::any_blocked_w);
                    all |= u64::from(sept_l2::attrs(w.raw, w_blocked)) << (16 * vm);
                }
            }
            regs.r8 = all;
        }
        info(regs, e.raw, e.level);
        Ok(SUCCESS)
    }
}
