// SPDX-License-Identifier: GPL-2.0
//! TDG.MR.REPORT and TDG.MR.RTMR.EXTEND.

use super::guest::{GuestOutcome, Vcpu};
use crate::locks::Mode;
use crate::measure::{self, DIGEST};
use crate::mem::{Machine, PAGE};
use crate::module::Module;
use crate::regs::{op, tdcall, Regs};
use crate::status::{with_op, INTERNAL_FATAL, OPERAND_INVALID};
use crate::td::{tdcs, Td};

/// Bytes of a TDREPORT and of the REPORTDATA in it.
const REPORT: u64 = 1024;
const REPORT_DATA: u64 = 64;
/// Words of a TDREPORT: where TEE_INFO_HASH, REPORTDATA, the proof and TDINFO start.
const INFO_HASH: u64 = 10;
const DATA: u64 = 16;
const MAC: u64 = 28;
const INFO: u64 = 64;
const INFO_WORDS: u64 = 64;
/// Report type 0x81: a TD's, without service TDs.
const TYPE: u64 = 0x81;
/// Stands where the proof would be.
const NO_MAC: &[u8; 32] = b"EMULATED TDX MODULE: NO EVIDENCE";
/// Bytes of a runtime measurement register, and how many there are.
const RTMR_SIZE: u64 = 48;
const RTMRS: u64 = 4;

impl<M: Machine> Module<M> {
    /// A word of TDINFO.
    fn td_info(&self, td: &Td, i: u64) -> u64 {
        match i {
            0 => self.tdcs_rd(td, tdcs::ATTRIBUTES),
            1 => self.tdcs_rd(td, tdcs::XFAM),
            2..=7 => self.tdcs_rd(td, tdcs::MRTD + 8 * (i - 2)),
            // MRCONFIGID, MROWNER, MROWNERCONFIG.
            8..=25 => self.tdcs_rd(td, tdcs::MRCONFIGID + 8 * (i - 8)),
            26..=49 => self.tdcs_rd(td, tdcs::RTMR + 8 * (i - 26)),
            _ => 0,
        }
    }

    /// TDG.MR.REPORT: a report that says of itself that it proves nothing.
    pub(super) fn mr_report(&self, v: &Vcpu, regs: &Regs) -> GuestOutcome {
        let (to, data) = (regs.rcx, regs.rdx);
        let leaf = tdcall::MR_REPORT;
        for (ok, operand) in [
            (to % REPORT == 0 && self.is_private(&v.td, to), op::RCX),
            (
                data % REPORT_DATA == 0 && self.is_private(&v.td, data),
                op::RDX,
            ),
            (regs.r8 == 0, op::R8),
        ] {
            if !ok {
                return self.answer(v, leaf, with_op(OPERAND_INVALID, operand));
            }
        }
        let pages = self.guest_page(v, data, false, 0).and_then(|from| {
            let to = self.guest_page(v, to, true, 0)?;
            Ok((to, from))
        });
        let (to, from) = match pages {
            Ok(p) => p,
            Err(outcome) => return outcome,
        };
        let hkid = v.td.hkid;
        let mac = |i: u64| {
            let i = 8 * i as usize;
            let mut word = [0; 8];
            word.copy_from_slice(&NO_MAC[i..i + 8]);
            u64::from_le_bytes(word)
        };
        let mut user = [0; REPORT_DATA as usize / 8];
        for (i, w) in (0..).zip(user.iter_mut()) {
            match self.rd_checked(hkid, from + 8 * i) {
                Ok(read) => *w = read,
                Err(_) => return self.died(INTERNAL_FATAL),
            }
        }
        let info = (0..INFO_WORDS).map(|i| self.td_info(&v.td, i));
        let hash = measure::digest_of(&self.machine, info);
        for i in 0..REPORT / 8 {
            let word = match i {
                0 => TYPE,
                INFO_HASH..DATA => hash[(i - INFO_HASH) as usize],
                DATA..24 => user[(i - DATA) as usize],
                MAC..32 => mac(i - MAC),
                INFO.. => self.td_info(&v.td, i - INFO),
                _ => 0,
            };
            self.wr_sealed(hkid, to + 8 * i, word);
        }
        debug_assert!(to % PAGE + REPORT <= PAGE);
        self.answer(v, leaf, 0)
    }

    /// TDG.MR.RTMR.EXTEND: the register becomes the digest of itself and 48 bytes.
    pub(super) fn rtmr_extend(&self, v: &Vcpu, regs: &Regs) -> GuestOutcome {
        let leaf = tdcall::MR_RTMR_EXTEND;
        let (gpa, index) = (regs.rcx, regs.rdx);
        let bad = |operand| self.answer(v, leaf, with_op(OPERAND_INVALID, operand));
        if gpa % 64 != 0 || !self.is_private(&v.td, gpa) {
            return bad(op::RCX);
        }
        let from = match self.guest_page(v, gpa, false, 0) {
            Ok(pa) => pa,
            Err(outcome) => return outcome,
        };
        if index >= RTMRS {
            return bad(op::RDX);
        }
        let at = |i: u64| tdcs::RTMR + RTMR_SIZE * index + 8 * i;
        let mut words = [0; 2 * DIGEST];
        for (i, w) in (0..).zip(words[DIGEST..].iter_mut()) {
            match self.rd_checked(v.td.hkid, from + 8 * i) {
                Ok(read) => *w = read,
                Err(_) => return self.died(INTERNAL_FATAL),
            }
        }
        let _lock = match self.plain_lock(&v.td, tdcs::RTMR_LOCK, Mode::Exclusive, op::RTMR) {
            Ok(guard) => guard,
            Err(status) => return self.answer(v, leaf, status),
        };
        for (i, w) in (0..).zip(words[..DIGEST].iter_mut()) {
            *w = self.tdcs_rd(&v.td, at(i));
        }
        let new = measure::digest_of(&self.machine, words.into_iter());
        for (i, w) in (0..).zip(new) {
            self.tdcs_wr(&v.td, at(i), w);
        }
        self.answer(v, leaf, 0)
    }
}
