// SPDX-License-Identifier: GPL-2.0
//! What a front end that runs guest code shares with the model: the guest's
//! general purpose registers, the controls of the vCPU, virtualization
//! exceptions.

use super::guest::{GuestOutcome, Vcpu};
use crate::mem::Machine;
use crate::module::Module;
use crate::regs::Regs;
use crate::status::{EXIT_REASON_TRIPLE_FAULT, NON_RECOVERABLE_VCPU};
use crate::td::{last_exit, tdcs, tdvps, vcpu, Td, TDCX_SEPT_ROOT};

/// Pages of a vCPU whose use a front end chooses.
pub const VCPU_PAGES: usize = 6;

/// How to run the vCPU that is in the guest on a logical processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuControls {
    /// The TDR of its TD.
    pub tdr: u64,
    /// Its TDVPR.
    pub tdvpr: u64,
    /// The KeyID of the TD's memory.
    pub hkid: u16,
    /// Bit of a guest physical address that means "shared".
    pub shared_bit: u32,
    /// Secure EPT pointer.
    pub eptp: u64,
    /// Shared EPT pointer.
    pub shared_eptp: u64,
    /// Posted-interrupt notification vector.
    pub posted_vector: u64,
    /// Address of the posted-interrupt descriptor; 0 = no posted interrupts.
    pub posted_descriptor: u64,
    /// Extended features the guest may use (XCR0 and IA32_XSS).
    pub xfam: u64,
    /// TD attributes.
    pub attributes: u64,
    /// MONITOR and MWAIT are executed; if not, they exit.
    pub monitor: bool,
    /// What is added to the scaled time stamp counter.
    pub tsc_offset: u64,
    /// Fixed point number (48 bits fraction) that scales the counter.
    pub tsc_multiplier: u64,
    /// Index of the vCPU in its TD.
    pub index: u64,
    /// The vCPU's pages, TDVPR first.
    pub pages: [u64; VCPU_PAGES],
}

/// What TDG.VP.VEINFO.GET tells about a virtualization exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VeInfo {
    /// VM exit reason.
    pub reason: u64,
    /// Exit qualification.
    pub qualification: u64,
    /// Guest linear address.
    pub gla: u64,
    /// Guest physical address.
    pub gpa: u64,
    /// Length of the instruction, and information about it in the upper half.
    pub instruction: u64,
}

impl<M: Machine> Module<M> {
    /// The registers a vCPU starts with.
    pub(super) fn guest_reset(&self, td: &Td, tdvpr: u64, index: u64, rcx: u64) {
        let width = if self.tdcs_rd(td, tdcs::GPAW) != 0 {
            52
        } else {
            48
        };
        let regs = Regs {
            rbx: width,
            rcx,
            // Family, model and stepping.
            rdx: self.machine.cpuid(0, 1, 0)[0].into(),
            rsi: index,
            r8: rcx,
            ..Regs::default()
        };
        self.gprs_wr(td, tdvpr, &regs);
    }

    pub(super) fn gprs_rd(&self, td: &Td, tdvpr: u64) -> Regs {
        let at = |i| self.vp_rd(td, tdvpr, tdvps::GPRS + 8 * i as u64);
        Regs::from_array(core::array::from_fn(at))
    }

    pub(super) fn gprs_wr(&self, td: &Td, tdvpr: u64, regs: &Regs) {
        for (i, r) in regs.array().into_iter().enumerate() {
            self.vp_wr(td, tdvpr, tdvps::GPRS + 8 * i as u64, r);
        }
    }

    /// TDH.VP.ENTER after TDG.VP.VMCALL: the host's registers that the guest
    /// asked for become the guest's.
    pub(crate) fn vmcall_return(&self, td: &Td, tdvpr: u64, host: &Regs) {
        let mut regs = self.gprs_rd(td, tdvpr).array();
        let mask = regs[1];
        for (i, (guest, host)) in regs.iter_mut().zip(host.array()).enumerate() {
            if mask >> Self::gpr_number(i) & 1 != 0 {
                *guest = host;
            }
        }
        regs[0] = 0;
        self.gprs_wr(td, tdvpr, &Regs::from_array(regs));
    }

    /// The architectural number of the register at a place in [`Regs`], where
    /// RSP is left out.
    const fn gpr_number(place: usize) -> usize {
        if place < 4 {
            place
        } else {
            place + 1
        }
    }

    /// The state of the vCPU that is in the guest on `lp`.
    pub(super) fn vcpu_in(&self, lp: usize) -> Option<Vcpu> {
        let (tdr, tdvpr) = self.in_guest(lp)?;
        let td = self.td_raw(tdr);
        (!self.is_dead()).then_some(Vcpu { lp, td, tdvpr })
    }

    /// An exit for another reason than those the module has to deal with.
    pub(super) fn other_exit(
        &self,
        v: &Vcpu,
        reason: u64,
        qual: u64,
        intr_info: u64,
    ) -> GuestOutcome {
        let fatal = reason == EXIT_REASON_TRIPLE_FAULT;
        let rax = if fatal {
            NON_RECOVERABLE_VCPU | reason
        } else {
            reason
        };
        let mut out = self.td_exit(v, rax, qual, 0, 0, last_exit::ASYNC_FAULT);
        if let GuestOutcome::Exit(r) = &mut out {
            r.r9 = intr_info;
        }
        if fatal {
            self.vset(v, tdvps::STATE, vcpu::DISABLED);
        }
        out
    }

    /// The controls of the vCPU that is in the guest on `lp`.
    pub fn vcpu_controls(&self, lp: usize) -> Option<VcpuControls> {
        let v = self.vcpu_in(lp)?;
        let td = &v.td;
        let posted = self.vget(&v, tdvps::PIN_CONTROLS) != 0;
        let eptp = self.tdcs_rd(td, tdcs::EPTP);
        debug_assert_eq!(eptp & !0xFFF, self.tdcx(td, TDCX_SEPT_ROOT));
        Some(VcpuControls {
            tdr: td.tdr,
            tdvpr: v.tdvpr,
            hkid: td.hkid,
            shared_bit: self.shared_bit(td),
            eptp,
            shared_eptp: self.vget(&v, tdvps::SHARED_EPTP) | eptp & 0xFFF,
            posted_vector: self.vget(&v, tdvps::POSTED_VECTOR),
            posted_descriptor: if posted {
                self.vget(&v, tdvps::POSTED_DESCRIPTOR)
            } else {
                0
            },
            xfam: self.tdcs_rd(td, tdcs::XFAM),
            attributes: self.tdcs_rd(td, tdcs::ATTRIBUTES),
            monitor: self.td_features(td).monitor,
            tsc_offset: self.tdcs_rd(td, tdcs::TSC_OFFSET),
            tsc_multiplier: self.tdcs_rd(td, tdcs::TSC_MULTIPLIER),
            index: self.vget(&v, tdvps::VCPU_INDEX),
            pages: core::array::from_fn(|i| self.vget(&v, tdvps::PAGES + 8 * i as u64)),
        })
    }

    /// The registers and the instruction pointer of the guest on `lp`.
    ///
    /// The instruction pointer is the last one that [`Module::guest_save`] was
    /// told, or that TDCALL moved; a vCPU that never ran has 0.
    pub fn guest_load(&self, lp: usize) -> Option<(Regs, u64)> {
        let v = self.vcpu_in(lp)?;
        Some((self.gprs_rd(&v.td, v.tdvpr), self.vget(&v, tdvps::RIP)))
    }

    /// Tells the registers of the guest on `lp`, before an event that may make
    /// it exit. `intr_pending` = a virtual interrupt can be delivered.
    pub fn guest_save(&self, lp: usize, regs: &Regs, rip: u64, intr_pending: bool) {
        if let Some(v) = self.vcpu_in(lp) {
            self.gprs_wr(&v.td, v.tdvpr, regs);
            self.vset(&v, tdvps::RIP, rip);
            self.vset(&v, tdvps::INTR_PENDING, intr_pending.into());
        }
    }

    /// Reads a word of memory through a KeyID, as the CPU does when it walks a
    /// secure EPT.
    pub fn read_private(&self, hkid: u16, pa: u64) -> u64 {
        self.rd(hkid, pa)
    }

    /// Takes the NMI that the host has asked for.
    pub fn take_pending_nmi(&self, lp: usize) -> bool {
        let Some(v) = self.vcpu_in(lp) else {
            return false;
        };
        let pending = self.vget(&v, tdvps::PEND_NMI) != 0;
        if pending {
            self.vset(&v, tdvps::PEND_NMI, 0);
        }
        pending
    }

    /// Records a virtualization exception of the guest on `lp`. The answer
    /// `false` means that it has not read about the last one yet: it gets a
    /// double fault instead.
    pub fn virt_exception(&self, lp: usize, info: &VeInfo) -> bool {
        let Some(v) = self.vcpu_in(lp) else {
            return false;
        };
        if self.vget(&v, tdvps::VE_VALID) != 0 {
            return false;
        }
        self.vset(&v, tdvps::VE_VALID, 1);
        self.vset(&v, tdvps::VE_REASON, info.reason);
        self.vset(&v, tdvps::VE_QUALIFICATION, info.qualification);
        self.vset(&v, tdvps::VE_GLA, info.gla);
        self.vset(&v, tdvps::VE_GPA, info.gpa);
        self.vset(&v, tdvps::VE_INSTRUCTION, info.instruction);
        true
    }
}
