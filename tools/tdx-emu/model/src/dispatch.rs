// SPDX-License-Identifier: GPL-2.0
//! The SEAMCALL dispatcher.

use crate::fault::Action;
use crate::leaf::vp_enter::Entry;
use crate::log::CallRecord;
use crate::mem::Machine;
use crate::module::{sys_state, Module};
use crate::regs::{leaf, op, Regs, BEFORE_READY};
use crate::status::{
    with_op, Res, INTERNAL_FATAL, OPERAND_INVALID, SUCCESS, SYS_NOT_READY, SYS_SHUTDOWN,
};

/// How a SEAMCALL ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The registers hold the result.
    Done,
    /// TDH.VP.ENTER: the logical processor is in the guest.
    Entered,
    /// CF = 1: there is no module to answer. Registers are unchanged.
    VmFailInvalid,
}

const VERSIONED: &[u16] = &[
    leaf::MEM_SEPT_ADD,
    leaf::MNG_RD,
    leaf::VP_INIT,
    leaf::MEM_PAGE_PROMOTE,
    leaf::VP_RD,
    leaf::MEM_SEPT_REMOVE,
];

/// Leaves that zero RCX and RDX first of all.
const fn zeroes(leaf_no: u16) -> bool {
    matches!(
        leaf_no,
        leaf::MEM_PAGE_ADD
            | leaf::MEM_SEPT_ADD
            | leaf::MEM_PAGE_RELOCATE
            | leaf::MEM_PAGE_AUG
            | leaf::MEM_RANGE_BLOCK
            | leaf::MEM_RD
            | leaf::MEM_WR
            | leaf::MEM_PAGE_DEMOTE
            | leaf::MR_EXTEND
            | leaf::MEM_PAGE_PROMOTE
            | leaf::PHYMEM_PAGE_RDMD
            | leaf::MEM_SEPT_RD
            | leaf::PHYMEM_PAGE_RECLAIM
            | leaf::MEM_PAGE_REMOVE
            | leaf::MEM_SEPT_REMOVE
            | leaf::MEM_RANGE_UNBLOCK
    )
}

impl<M: Machine> Module<M> {
    /// Carries out a SEAMCALL on logical processor `lp`.
    ///
    /// Neither sleeps, allocates nor waits for another call. Calls with bit 63
    /// of RAX are for the P-SEAMLDR: the front end must not bring them here.
    pub fn seamcall(&self, lp: usize, regs: &mut Regs) -> Outcome {
        let input = *regs;
        if self.is_dead() || lp >= self.lps() {
            return Outcome::VmFailInvalid;
        }
        let mut outcome = Outcome::Done;
        let mut injected = false;
        match self.dispatch(lp, regs, &mut injected) {
            Ok(Entry::Entered) => outcome = Outcome::Entered,
            Ok(Entry::Exit(status)) => regs.rax = status,
            Err(INTERNAL_FATAL) => {
                self.g.dead.set(1);
                *regs = input;
                outcome = Outcome::VmFailInvalid;
            }
            Err(status) => regs.rax = status,
        }
        self.machine.log(&CallRecord {
            lp,
            input,
            output: *regs,
            outcome,
            injected,
        });
        outcome
    }

    fn dispatch(&self, lp: usize, regs: &mut Regs, injected: &mut bool) -> Res<Entry> {
        let rax = regs.rax;
        let bad = Err(with_op(OPERAND_INVALID, op::RAX));
        if rax >> 24 != 0 {
            return bad;
        }
        let (leaf_no, version) = (rax as u16, (rax >> 16) as u8);
        if version > 0 && !VERSIONED.contains(&leaf_no) {
            return bad;
        }
        match self.g.sys_state.get() {
            sys_state::SHUTDOWN if leaf_no != 44 => return Err(SYS_SHUTDOWN),
            sys_state::READY | sys_state::SHUTDOWN => {}
            _ if BEFORE_READY.contains(&leaf_no) => {}
            _ => return Err(SYS_NOT_READY),
        }
        match self.faults.next(leaf_no) {
            Some(Action::Status(s)) => {
                *injected = true;
                if zeroes(leaf_no) {
                    (regs.rcx, regs.rdx) = (0, 0);
                }
                return Err(s);
            }
            Some(Action::Callback(id)) => self.machine.fault_callback(lp, leaf_no, id),
            None => {}
        }
        if leaf_no == leaf::VP_ENTER {
            return self.vp_enter(regs, lp);
        }
        self.leaf(lp, leaf_no, version, regs).map(Entry::Exit)
    }

    fn leaf(&self, lp: usize, leaf_no: u16, version: u8, regs: &mut Regs) -> Res<u64> {
        match leaf_no {
            leaf::MNG_ADDCX => self.mng_addcx(regs),
            leaf::MEM_PAGE_ADD => self.mem_page_add(regs),
            leaf::MEM_SEPT_ADD => self.mem_sept_add(regs, version, lp),
            leaf::VP_ADDCX => self.vp_addcx(regs),
            leaf::MEM_PAGE_RELOCATE => self.mem_page_relocate(regs),
            leaf::MEM_PAGE_AUG => self.mem_page_aug(regs),
            leaf::MEM_RANGE_BLOCK => self.mem_range_block(regs),
            leaf::MNG_KEY_CONFIG => self.mng_key_config(regs, lp),
            leaf::MNG_CREATE => self.mng_create(regs),
            leaf::VP_CREATE => self.vp_create(regs),
            leaf::MNG_RD => self.mng_rd(regs, version),
            leaf::MEM_RD => self.mem_rdwr(regs, false),
            leaf::MEM_WR => self.mem_rdwr(regs, true),
            leaf::MEM_PAGE_DEMOTE => self.mem_page_demote(regs, lp),
            leaf::MR_EXTEND => self.mr_extend(regs),
            leaf::MR_FINALIZE => self.mr_finalize(regs),
            leaf::VP_FLUSH => self.vp_flush(regs, lp),
            leaf::MNG_VPFLUSHDONE => self.mng_vpflushdone(regs),
            leaf::MNG_KEY_FREEID => self.mng_key_freeid(regs),
            leaf::MNG_INIT => self.mng_init(regs, lp),
            leaf::VP_INIT => self.vp_init(regs, version, lp),
            leaf::MEM_PAGE_PROMOTE => self.mem_page_promote(regs, version, lp),
            leaf::PHYMEM_PAGE_RDMD => self.phymem_page_rdmd(regs),
            leaf::MEM_SEPT_RD => self.mem_sept_rd(regs),
            leaf::VP_RD => self.vp_rdwr(regs, version, lp, false),
            leaf::VP_WR => self.vp_rdwr(regs, version, lp, true),
            // Kept for old hosts: it does nothing.
            leaf::MNG_KEY_RECLAIMID => Ok(SUCCESS),
            leaf::PHYMEM_PAGE_RECLAIM => self.phymem_page_reclaim(regs),
            leaf::MEM_PAGE_REMOVE => self.mem_page_remove(regs),
            leaf::MEM_SEPT_REMOVE => self.mem_sept_remove(regs, version),
            leaf::MEM_TRACK => self.mem_track(regs),
            leaf::MEM_RANGE_UNBLOCK => self.mem_range_unblock(regs),
            leaf::PHYMEM_CACHE_WB => self.phymem_cache_wb(regs, lp),
            leaf::PHYMEM_PAGE_WBINVD => self.phymem_page_wbinvd(regs),
            leaf::SYS_INIT => self.sys_init(regs),
            leaf::SYS_LP_INIT => self.sys_lp_init(lp),
            leaf::SYS_CONFIG => self.sys_config(regs),
            leaf::SYS_KEY_CONFIG => self.sys_key_config(lp),
            // Kept for old hosts: it does nothing.
            leaf::SYS_LP_SHUTDOWN => Ok(SUCCESS),
            leaf::SYS_TDMR_INIT => self.sys_tdmr_init(regs),
            leaf::SYS_RD => self.sys_rd(regs, lp),
            _ => Err(with_op(OPERAND_INVALID, op::RAX)),
        }
    }
}
