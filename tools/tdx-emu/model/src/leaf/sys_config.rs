// SPDX-License-Identifier: GPL-2.0
//! TDH.SYS.CONFIG: the TDMRs and the memory for their PAMTs.

use crate::config::{MAX_RESERVED, MAX_TDMRS};
use crate::locks::Mode;
use crate::mem::{Machine, PAGE};
use crate::module::{sys_state, Module};
use crate::regs::{op, Regs};
use crate::status::{
    with_op, Res, INVALID_PAMT, INVALID_RESERVED_IN_TDMR, INVALID_TDMR,
    NON_ORDERED_RESERVED_IN_TDMR, NON_ORDERED_TDMR, OPERAND_INVALID, PAMT_OUTSIDE_CMRS,
    PAMT_OVERLAP, SUCCESS, SYS_CONFIG_NOT_PENDING, TDMR_OUTSIDE_CMRS,
};

const GIB: u64 = 1 << 30;
/// Size and alignment of TDMR_INFO.
const INFO: u64 = 512;

/// Details of a TDMR status: TDMR index, then a level or area, then the other
/// TDMR.
const fn details(status: u64, tdmr: usize, a: usize, b: usize) -> u64 {
    status | tdmr as u64 & 0xFF | (a as u64 & 0xFF) << 8 | (b as u64 & 0xFF) << 16
}

/// One TDMR_INFO, copied from shared memory.
#[derive(Clone, Copy, Default)]
struct Info {
    base: u64,
    size: u64,
    /// (base, size) of the PAMT arrays: 4K, 2M, 1G.
    pamt: [(u64, u64); 3],
    reserved: [(u64, u64); MAX_RESERVED],
}

impl Info {
    fn end(&self) -> u64 {
        self.base.saturating_add(self.size)
    }
    /// Calls `f` with every area that is not reserved.
    fn available(&self, mut f: impl FnMut(u64, u64) -> Res) -> Res {
        let mut at = self.base;
        for (off, size) in self.reserved {
            if size == 0 {
                break;
            }
            let from = self.base.saturating_add(off);
            if from > at {
                f(at, from - at)?;
            }
            at = from.saturating_add(size);
        }
        if at < self.end() {
            f(at, self.end() - at)?;
        }
        Ok(())
    }
}

fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1)
}

impl<M: Machine> Module<M> {
    pub(crate) fn sys_config(&self, regs: &Regs) -> Res<u64> {
        let (list, count, hkid) = (regs.rcx, regs.rdx, regs.r8);
        let _lock = self.sys_lock(Mode::Exclusive)?;
        if self.g.sys_state.get() != sys_state::INIT_DONE
            || (self.g.lps_initialized.get() as usize) < self.lps()
        {
            return Err(SYS_CONFIG_NOT_PENDING);
        }
        if !self.shared_ok(list, INFO) {
            return Err(with_op(OPERAND_INVALID, op::RCX));
        }
        if !(1..=MAX_TDMRS as u64).contains(&count) {
            return Err(with_op(OPERAND_INVALID, op::RDX));
        }
        let private = u64::from(self.config.first_private_hkid)..self.config.hkids() as u64;
        if !private.contains(&hkid) {
            return Err(with_op(OPERAND_INVALID, op::R8));
        }
        let list = list & !self.config.hkid_mask();
        let n = count as usize;
        for i in 0..n {
            let info = self.read_info(list, i)?;
            self.check_tdmr(list, &info, i)?;
            self.check_pamts(list, &info, i)?;
            let t = &self.g.tdmrs[i];
            t.base.set(info.base);
            t.size.set(info.size);
            t.initialized.set(info.base);
            for (slot, p) in t.pamt.iter().zip(info.pamt) {
                slot.set(p.0);
            }
            for (slot, r) in t.reserved.iter().zip(info.reserved) {
                slot.0.set(r.0);
                slot.1.set(r.1);
            }
        }
        self.g.n_tdmrs.set(count);
        self.reserve_hkid(hkid as u16);
        self.g.pkgs_keyed.set(0);
        self.g.sys_state.set(sys_state::CONFIG_DONE);
        Ok(SUCCESS)
    }

    fn read_info(&self, list: u64, index: usize) -> Res<Info> {
        let pa = self.machine.read(list + 8 * index as u64);
        if !self.shared_ok(pa, INFO) {
            return Err(with_op(OPERAND_INVALID, 96));
        }
        let pa = pa & !self.config.hkid_mask();
        let w = |i: u64| self.machine.read(pa + 8 * i);
        let mut info = Info {
            base: w(0),
            size: w(1),
            // In memory the order is 1G, 2M, 4K.
            pamt: [(w(6), w(7)), (w(4), w(5)), (w(2), w(3))],
            ..Info::default()
        };
        for (j, r) in info.reserved.iter_mut().enumerate() {
            *r = (w(8 + 2 * j as u64), w(9 + 2 * j as u64));
        }
        Ok(info)
    }

    fn in_pa_space(&self, base: u64, size: u64) -> bool {
        size != 0
            && base.checked_add(size - 1).is_some_and(|end| {
                [base, end]
                    .iter()
                    .all(|a| a >> self.config.max_pa == 0 && self.config.hkid_of(*a) == 0)
            })
    }

    fn check_tdmr(&self, list: u64, t: &Info, i: usize) -> Res {
        if t.base % GIB != 0 || t.size % GIB != 0 || !self.in_pa_space(t.base, t.size) {
            return Err(details(INVALID_TDMR, i, 0, 0));
        }
        if i > 0 && self.read_info(list, i - 1)?.end() > t.base {
            return Err(details(NON_ORDERED_TDMR, i, 0, 0));
        }
        let (mut last, mut done) = (0, false);
        for (j, (off, size)) in t.reserved.iter().enumerate() {
            if *size == 0 {
                done = true;
                continue;
            }
            if done || off % PAGE != 0 || size % PAGE != 0 || off.saturating_add(*size) > t.size {
                return Err(details(INVALID_RESERVED_IN_TDMR, i, j, 0));
            }
            if *off < last {
                return Err(details(NON_ORDERED_RESERVED_IN_TDMR, i, j, 0));
            }
            last = off.saturating_add(*size);
        }
        t.available(|base, size| {
            if self.config.in_cmr(base, size) {
                Ok(())
            } else {
                Err(details(TDMR_OUTSIDE_CMRS, i, 0, 0))
            }
        })
    }

    fn check_pamts(&self, list: u64, t: &Info, i: usize) -> Res {
        for level in 0..3 {
            let (base, size) = t.pamt[level];
            let need = t.size / (PAGE << (9 * level)) * 16;
            if base % PAGE != 0 || size % PAGE != 0 || !self.in_pa_space(base, size) || size < need
            {
                return Err(details(INVALID_PAMT, i, level, 0));
            }
            if !self.config.in_cmr(base, size) {
                return Err(details(PAMT_OUTSIDE_CMRS, i, level, 0));
            }
        }
        for j in 0..=i {
            let other = if j == i { *t } else { self.read_info(list, j)? };
            for level in 0..3 {
                other.available(|b, s| {
                    if overlap(t.pamt[level], (b, s)) {
                        Err(details(PAMT_OVERLAP, i, level, j))
                    } else {
                        Ok(())
                    }
                })?;
                if j < i {
                    t.available(|b, s| {
                        if overlap(other.pamt[level], (b, s)) {
                            Err(details(PAMT_OVERLAP, j, level, i))
                        } else {
                            Ok(())
                        }
                    })?;
                }
                for l2 in 0..3 {
                    if (j < i || l2 < level) && overlap(t.pamt[level], other.pamt[l2]) {
                        return Err(details(PAMT_OVERLAP, i, level, j));
                    }
                }
            }
        }
        Ok(())
    }
}
