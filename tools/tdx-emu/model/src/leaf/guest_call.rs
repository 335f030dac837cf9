// SPDX-License-Identifier: GPL-2.0
//! TDCALL: the guest-side leaves, for a front end that runs guest code.

use super::guest::{GuestEvent, GuestOutcome, Stop, Vcpu};
use crate::mem::Machine;
use crate::module::Module;
use crate::regs::{op, tdcall, Regs};
use crate::status::{with_op, NO_VALID_VE_INFO, OPERAND_INVALID};
use crate::td::{tdcs, tdvps};

/// The newest version of a leaf.
const fn newest(leaf: u16) -> u8 {
    if leaf == tdcall::VM_RD {
        1
    } else {
        0
    }
}

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
        let (leaf, version) = (regs.rax as u16, (regs.rax >> 16) as u8);
        match leaf {
            _ if regs.rax >> 24 != 0 || version > newest(leaf) => {
                self.answer(&v, leaf, with_op(OPERAND_INVALID, op::RAX))
            }
            tdcall::VP_VMCALL => self.guest_event(lp, GuestEvent::VmCall { regs: *regs }),
            tdcall::VP_INFO => self.vp_info(&v),
            tdcall::VP_VEINFO_GET => self.veinfo_get(&v),
            tdcall::MR_REPORT => self.mr_report(&v, regs),
            tdcall::MR_RTMR_EXTEND => self.rtmr_extend(&v, regs),
            tdcall::VM_RD => self.vm_rdwr(&v, regs, false, version),
            tdcall::VM_WR => self.vm_rdwr(&v, regs, true, version),
            tdcall::SYS_RD => self.guest_sys_rd(&v, regs),
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

    pub(super) fn answer(&self, v: &Vcpu, leaf: u16, status: u64) -> GuestOutcome {
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
            // TDG.SYS.RD is there.
            (r.r10, r.r11) = (1, 0);
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
}
