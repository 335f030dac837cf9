// SPDX-License-Identifier: GPL-2.0
//! TDG.MEM.PAGE.ATTR.RD and WR: permissions of L2 VMs.

use super::guest::{eeq, Stop, Vcpu};
use crate::mem::Machine;
use crate::module::Module;
use crate::regs::{op, tdcall};
use crate::sept::{self, State, HPA};
use crate::sept_l2::{self, attr};
use crate::status::{
    with_l2, with_op, L2_SEPT_WALK_FAILED, OPERAND_INVALID, PAGE_ATTR_INVALID, PAGE_SIZE_MISMATCH,
};
use crate::td::{tdvps, Td};
use crate::walk::{mapping, Walk};

const PENDING_FLAG: u64 = 1 << 62;
const INVEPT_FLAG: u16 = 1 << 15;

const fn lane(word: u64, vm: u16) -> u16 {
    (word >> (16 * vm)) as u16
}

impl<M: Machine> Module<M> {
    /// Walks an L2 S-EPT as the guest side does: blocked tables are entered.
    fn l2_walk_guest(&self, td: &Td, vm: u16, gpa: u64, target: u8) -> Result<Walk, Stop> {
        let (mut table, mut level) = self.root(td, vm)?;
        loop {
            let at = table + (gpa >> (12 + 9 * u32::from(level)) & 511) * 8;
            let raw = self.rd(td.hkid, at);
            if level == target || sept_l2::is_free(raw) || sept::is_leaf(raw) || level == 0 {
                return Ok(Walk { at, level, raw });
            }
            table = raw & HPA;
            self.in_tdmr(table, at)?;
            level -= 1;
        }
    }

    /// Merges the requested attributes of every VM with the current ones.
    fn new_attributes(
        &self,
        v: &Vcpu,
        (raw, gpa, level): (u64, u64, u8),
        new: u64,
        mask: u64,
    ) -> Result<([u16; 4], [Option<Walk>; 4]), Stop> {
        let td = &v.td;
        let l1_w = sept::state(raw).any_blocked_w();
        let mut attrs = [0; 4];
        let mut at: [Option<Walk>; 4] = [None; 4];
        let mut invalid = false;
        for vm in 1..=self.l2_vms(td) {
            let i = usize::from(vm);
            let m = lane(mask, vm) | attr::VALID;
            attrs[i] = lane(new, vm);
            let wanted = attrs[i] & m;
            if wanted & attr::VALID == 0 {
                continue;
            }
            if sept::aliased(raw, vm) {
                let w = self.l2_walk_guest(td, vm, gpa, level)?;
                if w.level != level {
                    return Self::unfailing(self.fatal());
                }
                at[i] = Some(w);
                let current = sept_l2::attrs(w.raw, l1_w);
                attrs[i] = current & !m | wanted;
                if attr::present(attrs[i]) && !attr::legal(attrs[i]) {
                    invalid = true;
                    attrs[i] = current;
                }
            } else if attr::present(wanted) {
                if !attr::legal(wanted) {
                    invalid = true;
                    attrs[i] = 0;
                    continue;
                }
                attrs[i] = wanted;
                let w = self.l2_walk_guest(td, vm, gpa, level)?;
                if w.level != level {
                    return Err(Stop::Status(with_l2(L2_SEPT_WALK_FAILED, vm, w.level)));
                }
                at[i] = Some(w);
            }
        }
        if invalid {
            self.attr_result(v, 0, &attrs);
            return Err(Stop::Status(PAGE_ATTR_INVALID));
        }
        Ok((attrs, at))
    }

    fn attr_result(&self, v: &Vcpu, rcx: u64, attrs: &[u16; 4]) {
        let rdx = (0..4).fold(0, |w, i| w | u64::from(attrs[i]) << (16 * i));
        self.vset(v, tdvps::GUEST_RCX, rcx);
        self.vset(v, tdvps::GUEST_RDX, rdx);
    }

    pub(super) fn page_attr_wr(&self, v: &Vcpu, rcx: u64, new: u64, mask: u64) -> Result<(), Stop> {
        let td = &v.td;
        let invalid = |operand| Err(Stop::Status(with_op(OPERAND_INVALID, operand)));
        let vms = self.l2_vms(td);
        for vm in 0..4u16 {
            if vm == 0 || vm > vms {
                if lane(new, vm) != 0 {
                    return invalid(op::RDX);
                }
                if lane(mask, vm) != 0 {
                    return invalid(op::R8);
                }
            } else if lane(new, vm) != 0 && lane(new, vm) & attr::VALID == 0 {
                return invalid(op::RDX);
            }
        }
        let Some((gpa, level)) = mapping(rcx, 0, 2) else {
            return invalid(op::RCX);
        };
        if !self.is_private(td, gpa) {
            return invalid(op::RCX);
        }
        let w = self.walk(td, 0, gpa, level)?;
        if w.level != level {
            return Err(Self::leaf_violation(gpa, level, w, eeq::ATTR_WR));
        }
        let lock = self.guest_lock(v, w.at)?;
        let raw = lock.get();
        let st = sept::state(raw);
        if !sept::is_leaf(raw) && sept::try_state(raw) != Some(State::Free) {
            return Err(Stop::Status(PAGE_SIZE_MISMATCH | u64::from(level)));
        }
        if !sept::guest_allowed(tdcall::MEM_PAGE_ATTR_WR, st) {
            let now = Walk { raw, ..w };
            return Err(Self::leaf_violation(gpa, level, now, eeq::ATTR_WR));
        }
        let (mut attrs, at) = self.new_attributes(v, (raw, gpa, level), new, mask)?;
        let mut l1 = raw;
        for vm in 1..=vms {
            let i = usize::from(vm);
            if let Some(alias) = at[i] {
                if !sept::aliased(raw, vm) {
                    let e = sept_l2::leaf_entry(alias.raw, attrs[i], raw, st.any_pending());
                    self.wr(td.hkid, alias.at, e);
                    l1 |= sept::alias_bit(vm);
                } else if attrs[i] & attr::VALID != 0 {
                    if attr::present(attrs[i]) {
                        self.wr(td.hkid, alias.at, sept_l2::with_attr(alias.raw, attrs[i]));
                    } else {
                        self.wr(td.hkid, alias.at, sept_l2::INIT);
                        l1 &= !sept::alias_bit(vm);
                        attrs[i] = attr::VALID;
                    }
                }
            }
            if lane(mask, vm) & INVEPT_FLAG != 0 {
                self.machine.invept(v.lp, self.eptp(td, vm));
            }
        }
        lock.set(l1);
        let pending = if st.any_pending() { PENDING_FLAG } else { 0 };
        self.attr_result(v, rcx | pending, &attrs);
        Ok(())
    }

    pub(super) fn page_attr_rd(&self, v: &Vcpu, rcx: u64) -> Result<(), Stop> {
        let td = &v.td;
        let bad = with_op(OPERAND_INVALID, op::RCX);
        if rcx & 0xFFF != 0 || rcx & !HPA != 0 || !self.is_private(td, rcx) {
            return Err(Stop::Status(bad));
        }
        let w = self.walk(td, 0, rcx, 0)?;
        let lock = self.guest_lock(v, w.at)?;
        let raw = lock.get();
        let st = sept::state(raw);
        if !sept::guest_allowed(tdcall::MEM_PAGE_ATTR_RD, st) {
            let now = Walk { raw, ..w };
            return Err(Self::leaf_violation(rcx, 0, now, eeq::GPA_DETAILS));
        }
        let mut attrs = [0; 4];
        for vm in 1..=self.l2_vms(td) {
            attrs[usize::from(vm)] = if sept::aliased(raw, vm) {
                let a = Self::unfailing(self.l2_entry(td, vm, rcx, w.level))?;
                sept_l2::attrs(a.raw, st.any_blocked_w())
            } else {
                attr::VALID
            };
        }
        let pending = if st.any_pending() { PENDING_FLAG } else { 0 };
        self.attr_result(v, rcx | u64::from(w.level) | pending, &attrs);
        Ok(())
    }
}
