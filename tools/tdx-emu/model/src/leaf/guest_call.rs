// SPDX-License-Identifier: GPL-2.0
//! TDCALL: the guest-side leaves, for a front end that runs guest code.

use super::guest::{GuestEvent, GuestOutcome, Stop, Vcpu};
use crate::mem::{Machine, PAGE};
use crate::module::Module;
use crate::regs::{op, tdcall, Regs};
use crate::status::{with_op, INTERNAL_FATAL, NO_VALID_VE_INFO, OPERAND_INVALID};
use crate::td::{tdcs, tdvps};

/// Bytes of a TDREPORT and of the REPORTDATA in it.
const REPORT: u64 = 1024;
const REPORT_DATA: u64 = 64;
/// Stands where the proof would be.
const NO_MAC: &[u8; 32] = b"EMULATED TDX MODULE: NO EVIDENCE";

impl<M: Machine> Module<M> {
    /// TDCALL by the guest on `lp`, with its registers and the address of the
    /// instruction. A front end that has virtual interrupts tells by
    /// [`Module::guest_save`] first whether one waits.
    ///
    /// After [`GuestOutcome::InGuest`] the guest goes on with what
    /// [`Module::guest_load`] tells.
    pub fn tdcall(&self, lp: usize, regs: &Regs, rip: u64) -> GuestOutcome {
        let Some(v) = self.vcpu_in(lp) else {
            return GuestOutcome::None;
        };
        // Whether an interrupt waits is what guest_save() was told last.
        let pending = self.vget(&v, tdvps::INTR_PENDING) != 0;
        self.guest_save(lp, regs, rip, pending);
        let leaf = regs.rax as u16;
        match leaf {
            _ if regs.rax >> 16 != 0 => self.answer(&v, leaf, with_op(OPERAND_INVALID, op::RAX)),
            tdcall::VP_VMCALL => self.guest_event(lp, GuestEvent::VmCall { regs: *regs }),
            tdcall::VP_INFO => self.vp_info(&v),
            tdcall::VP_VEINFO_GET => self.veinfo_get(&v),
            tdcall::MR_REPORT => self.mr_report(&v, regs),
            tdcall::VP_CPUIDVE_SET => self.cpuidve_set(&v, regs),
            tdcall::MEM_PAGE_ACCEPT => self.guest_event(lp, GuestEvent::Accept { gpa: regs.rcx }),
            tdcall::MEM_PAGE_ATTR_RD => {
                self.guest_event(lp, GuestEvent::AttrRead { rcx: regs.rcx })
            }
            tdcall::MEM_PAGE_ATTR_WR => self.guest_event(
                lp,
                GuestEvent::AttrWrite {
                    rcx: regs.rcx,
                    rdx: regs.rdx,
                    r8: regs.r8,
                },
            ),
            _ => self.answer(&v, leaf, with_op(OPERAND_INVALID, op::RAX)),
        }
    }

    fn answer(&self, v: &Vcpu, leaf: u16, status: u64) -> GuestOutcome {
        self.tdcall_end(
            v,
            leaf,
            if status == 0 {
                Ok(())
            } else {
                Err(Stop::Status(status))
            },
        )
    }

    /// Success, with output registers.
    fn outputs(&self, v: &Vcpu, leaf: u16, f: impl FnOnce(&mut Regs)) -> GuestOutcome {
        let mut regs = self.gprs_rd(&v.td, v.tdvpr);
        f(&mut regs);
        self.gprs_wr(&v.td, v.tdvpr, &regs);
        self.answer(v, leaf, 0)
    }

    fn vp_info(&self, v: &Vcpu) -> GuestOutcome {
        let td = &v.td;
        let width = if self.tdcs_rd(td, tdcs::GPAW) != 0 {
            52
        } else {
            48
        };
        let vcpus = self.tdcs_rd(td, tdcs::NUM_VCPUS) | self.tdcs_rd(td, tdcs::MAX_VCPUS) << 32;
        self.outputs(v, tdcall::VP_INFO, |r| {
            r.rcx = width;
            r.rdx = self.tdcs_rd(td, tdcs::ATTRIBUTES);
            r.r8 = vcpus;
            r.r9 = self.vget(v, tdvps::VCPU_INDEX);
            (r.r10, r.r11) = (0, 0);
        })
    }

    fn veinfo_get(&self, v: &Vcpu) -> GuestOutcome {
        if self.vget(v, tdvps::VE_VALID) == 0 {
            return self.answer(v, tdcall::VP_VEINFO_GET, NO_VALID_VE_INFO);
        }
        self.vset(v, tdvps::VE_VALID, 0);
        self.outputs(v, tdcall::VP_VEINFO_GET, |r| {
            r.rcx = self.vget(v, tdvps::VE_REASON);
            r.rdx = self.vget(v, tdvps::VE_QUALIFICATION);
            r.r8 = self.vget(v, tdvps::VE_GLA);
            r.r9 = self.vget(v, tdvps::VE_GPA);
            r.r10 = self.vget(v, tdvps::VE_INSTRUCTION);
        })
    }

    fn cpuidve_set(&self, v: &Vcpu, regs: &Regs) -> GuestOutcome {
        if regs.rcx & !3 != 0 {
            return self.answer(v, tdcall::VP_CPUIDVE_SET, with_op(OPERAND_INVALID, op::RCX));
        }
        self.vset(v, tdvps::CPUID_VE, regs.rcx);
        self.answer(v, tdcall::VP_CPUIDVE_SET, 0)
    }

    /// TDG.MR.REPORT: a report that says of itself that it proves nothing.
    fn mr_report(&self, v: &Vcpu, regs: &Regs) -> GuestOutcome {
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
        for i in 0..REPORT / 8 {
            let word = match i {
                0 => 0x81,
                16..=23 => match self.rd_checked(hkid, from + 8 * (i - 16)) {
                    Ok(w) => w,
                    Err(_) => return self.died(INTERNAL_FATAL),
                },
                28..=31 => mac(i - 28),
                64 => self.tdcs_rd(&v.td, tdcs::ATTRIBUTES),
                65 => self.tdcs_rd(&v.td, tdcs::XFAM),
                66..=71 => self.tdcs_rd(&v.td, tdcs::MRTD + 8 * (i - 66)),
                _ => 0,
            };
            self.wr_sealed(hkid, to + 8 * i, word);
        }
        debug_assert!(to % PAGE + REPORT <= PAGE);
        self.answer(v, leaf, 0)
    }
}
