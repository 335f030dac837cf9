// SPDX-License-Identifier: GPL-2.0
//! The control structures of a TD and their fields.
//!
//! They live in the pages the host donated: TDR under the module's global
//! KeyID, TDCS and TDVPS under the TD's own. The published interface leaves
//! their layout open; the offsets below are the model's. Every structure
//! starts with a signature, so that a stray host write to it is noticed.

use crate::locks::{self, Mode, Side};
use crate::mem::Machine;
use crate::module::Module;
use crate::opstate::{self, lifecycle};
use crate::pamt::{pt, PageGuard};
use crate::regs::op;
use crate::status::{
    with_op, Res, OP_STATE_INCORRECT, TDCS_NOT_ALLOCATED, TDCX_NUM_INCORRECT, TD_FATAL,
    TD_KEYS_NOT_CONFIGURED,
};

/// Fewest TDCX pages of a TD.
pub const MIN_TDCX: u64 = 6;
/// Most TDCX pages of a TD.
pub const MAX_TDCX: u64 = 9;
/// Fewest pages of a vCPU, TDVPR included.
pub const MIN_TDVPS: u64 = 6;
/// Most pages of a vCPU.
pub const MAX_TDVPS: u64 = 15;
/// Pages each L2 VM adds to a vCPU.
pub const TDVPS_PER_L2: u64 = 3;
/// TDCX page that holds the MSR bitmaps.
pub const TDCX_MSR_BITMAPS: u64 = 2;
/// TDCX page that is the S-EPT root.
pub const TDCX_SEPT_ROOT: u64 = 3;
/// TDCX page that is the S-EPT root of L2 VM 1.
pub const TDCX_L2_ROOT: u64 = 6;
/// No logical processor.
pub const NO_LP: u64 = 0xFFFF_FFFF;

/// Field offsets in the TDR.
#[allow(missing_docs)]
pub mod tdr {
    pub const SIGNATURE: u64 = 0;
    pub const FATAL: u64 = 8;
    pub const NUM_TDCX: u64 = 16;
    pub const CHLDCNT: u64 = 24;
    pub const LIFECYCLE: u64 = 32;
    pub const HKID: u64 = 40;
    pub const PKG_BITMAP: u64 = 48;
    pub const UUID: u64 = 64;
    /// Checksum of HKID, NUM_TDCX and TDCX_PA, which never change unnoticed.
    pub const CHECK: u64 = 96;
    pub const TDCX_PA: u64 = 128;
    pub const MAGIC: u64 = 0x5244_545F_5844_5421;
}

/// Field offsets in the first TDCX page.
#[allow(missing_docs)]
pub mod tdcs {
    pub const OP_STATE: u64 = 0x00;
    pub const OP_STATE_LOCK: u64 = 0x08;
    pub const NUM_VCPUS: u64 = 0x10;
    pub const NUM_ASSOC: u64 = 0x18;
    pub const NUM_L2_VMS: u64 = 0x20;
    pub const ATTRIBUTES: u64 = 0x28;
    pub const XFAM: u64 = 0x30;
    pub const MAX_VCPUS: u64 = 0x38;
    pub const GPAW: u64 = 0x40;
    pub const EPTP: u64 = 0x48;
    pub const SEPT_LOCK: u64 = 0x50;
    pub const EPOCH_LOCK: u64 = 0x58;
    pub const EPOCH: u64 = 0x60;
    /// Two 16-bit counters by epoch parity.
    pub const REFCOUNT: u64 = 0x68;
    pub const TSC_FREQUENCY: u64 = 0x70;
    pub const HP_LOCK_TIMEOUT: u64 = 0x78;
    pub const CONFIG_FLAGS: u64 = 0x80;
    pub const TSC_OFFSET: u64 = 0x88;
    pub const TSC_MULTIPLIER: u64 = 0x90;
    pub const TD_CTLS: u64 = 0x98;
    pub const NOTIFY_ENABLES: u64 = 0xA0;
    /// IA32_ARCH_CAPABILITIES as the TD sees it.
    pub const ARCH_CAPABILITIES: u64 = 0xA8;
    /// vCPUs that were given an x2APIC id.
    pub const NUM_X2APIC_IDS: u64 = 0xB0;
    pub const RTMR_LOCK: u64 = 0xB8;
    pub const MRTD: u64 = 0x100;
    /// The measurement in progress, and how many blocks are in it.
    pub const MRTD_STATE: u64 = 0x140;
    pub const MRTD_BLOCKS: u64 = 0x180;
    /// MRCONFIGID, MROWNER and MROWNERCONFIG, as in TD_PARAMS.
    pub const MRCONFIGID: u64 = 0x200;
    pub const MRCONFIG_END: u64 = MRCONFIGID + 3 * 48;
    /// Four runtime measurement registers.
    pub const RTMR: u64 = 0x300;
    pub const RTMR_END: u64 = RTMR + 4 * 48;
    /// Two words for each CPUID leaf and subleaf that the module knows.
    pub const CPUID: u64 = 0x400;
    pub const CPUID_SIZE: u64 = 0x800;
    /// The TDCX page with the x2APIC ids of the vCPUs, 32 bits each.
    pub const X2APIC_PAGE: u64 = 4;
}

/// Field offsets in the TDVPR.
#[allow(missing_docs)]
pub mod tdvps {
    pub const SIGNATURE: u64 = 0;
    pub const NUM_PAGES: u64 = 0x08;
    pub const STATE: u64 = 0x10;
    pub const ASSOC_LP: u64 = 0x18;
    pub const VCPU_EPOCH: u64 = 0x20;
    pub const VCPU_INDEX: u64 = 0x28;
    pub const LAST_EXIT_TSC: u64 = 0x30;
    pub const LAST_TD_EXIT: u64 = 0x38;
    pub const RIP: u64 = 0x40;
    /// EPT violations seen without progress.
    pub const EPF_COUNT: u64 = 0x48;
    /// Number of logged GPAs.
    pub const EPF_LOGGED: u64 = 0x50;
    pub const HP_BUSY: u64 = 0x58;
    pub const HP_BUSY_START: u64 = 0x60;
    pub const VE_VALID: u64 = 0x68;
    pub const VE_REASON: u64 = 0x70;
    pub const VE_QUALIFICATION: u64 = 0x78;
    pub const VE_GLA: u64 = 0x80;
    pub const VE_GPA: u64 = 0x88;
    /// Instruction length, and instruction information in the upper half.
    pub const VE_INSTRUCTION: u64 = 0x90;
    /// A virtual interrupt can be delivered.
    pub const INTR_PENDING: u64 = 0x98;
    pub const PEND_NMI: u64 = 0xA0;
    pub const SHARED_EPTP: u64 = 0xA8;
    pub const POSTED_VECTOR: u64 = 0xB0;
    pub const POSTED_DESCRIPTOR: u64 = 0xB8;
    pub const PIN_CONTROLS: u64 = 0xC0;
    pub const SECONDARY_CONTROLS: u64 = 0xC8;
    pub const NOTIFY_WINDOW: u64 = 0xD0;
    /// The guest wants #VE for every CPUID leaf, by privilege (bits 0, 1).
    pub const CPUID_VE: u64 = 0xD8;
    pub const PAGES: u64 = 0x100;
    pub const EPF_LIST: u64 = 0x200;
    pub const EPF_LIST_SIZE: u64 = 32;
    /// Registers of [`crate::program`].
    pub const PROGRAM: u64 = 0x400;
    /// The general purpose registers of the guest, in the order of `Regs`.
    pub const GPRS: u64 = 0x380;
    pub const GUEST_RAX: u64 = GPRS;
    pub const GUEST_RCX: u64 = GPRS + 8;
    pub const GUEST_RDX: u64 = GPRS + 16;
    pub const MAGIC: u64 = 0x5650_4454_5F58_4454;
}

/// Bits of TD_CTLS.
#[allow(missing_docs)]
pub mod td_ctls {
    /// No virtualization exception for a page that is not accepted.
    pub const PENDING_VE_DISABLE: u64 = 1;
    /// CPUID leaves 0xB and 0x1F are answered.
    pub const ENUM_TOPOLOGY: u64 = 1 << 1;
}

/// vCPU states.
#[allow(missing_docs)]
pub mod vcpu {
    pub const UNINITIALIZED: u64 = 0;
    pub const READY: u64 = 2;
    pub const ACTIVE: u64 = 4;
    pub const DISABLED: u64 = 8;
}

/// How the vCPU last left the guest.
#[allow(missing_docs)]
pub mod last_exit {
    pub const ASYNC_FAULT: u64 = 0;
    pub const ASYNC_TRAP: u64 = 1;
    pub const TDVMCALL: u64 = 2;
}

/// A TD whose TDCS can be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Td {
    pub tdr: u64,
    pub hkid: u16,
    /// First TDCX page.
    pub tdcs: u64,
}

/// A held sharex lock of the TDCS.
pub(crate) struct TdLock<'m, M: Machine> {
    m: &'m Module<M>,
    hkid: u16,
    at: u64,
    mode: Mode,
    hp: bool,
}

impl<M: Machine> Drop for TdLock<'_, M> {
    fn drop(&mut self) {
        let (mode, hp) = (self.mode, self.hp);
        self.m.lock_step(self.hkid, self.at, |w| {
            let n = if hp {
                locks::hp_release(w, mode)
            } else {
                locks::release(w, mode)
            };
            (n, ())
        });
    }
}

impl<M: Machine> Module<M> {
    pub(crate) fn lock_step<T: Copy>(&self, hkid: u16, at: u64, f: impl Fn(u16) -> (u16, T)) -> T {
        self.update(hkid, at, |w| {
            let (n, out) = f(w as u16);
            (w & !0xFFFF | u64::from(n), out)
        })
    }

    /// Reads a field of the TDR.
    pub(crate) fn tdr_rd(&self, tdr: u64, field: u64) -> u64 {
        self.rd(self.global_hkid(), tdr + field)
    }
    /// Writes a field of the TDR.
    pub(crate) fn tdr_wr(&self, tdr: u64, field: u64, value: u64) {
        self.wr(self.global_hkid(), tdr + field, value);
    }
    /// Adds to the number of pages the TD owns.
    pub(crate) fn children(&self, tdr: u64, n: i64) {
        self.add(self.global_hkid(), tdr + tdr::CHLDCNT, n as u64);
    }

    fn tdr_checksum(&self, tdr: u64) -> u64 {
        let fields = [tdr::SIGNATURE, tdr::HKID, tdr::NUM_TDCX];
        let pages = (0..MAX_TDCX).map(|i| tdr::TDCX_PA + 8 * i);
        fields.into_iter().chain(pages).fold(0, |sum, field| {
            crate::cipher::absorb(sum, self.tdr_rd(tdr, field))
        })
    }

    /// Seals the fields that lead to the rest of the TD.
    pub(crate) fn tdr_seal(&self, tdr: u64) {
        self.tdr_wr(tdr, tdr::CHECK, self.tdr_checksum(tdr));
    }

    /// The TDR still says it is one, and leads where it did.
    pub(crate) fn tdr_sane(&self, tdr: u64) -> Res {
        if self.tdr_rd(tdr, tdr::SIGNATURE) == tdr::MAGIC
            && self.tdr_rd(tdr, tdr::CHECK) == self.tdr_checksum(tdr)
        {
            return Ok(());
        }
        self.stray(tdr)
    }

    /// Somebody else wrote to a control structure at `pa`.
    pub(crate) fn stray<T>(&self, pa: u64) -> Res<T> {
        self.g.violation_pa.set(pa);
        self.g.violations.add(1);
        self.fatal()
    }

    /// Checks and locks an explicit TDR operand.
    pub(crate) fn tdr_explicit(&self, pa: u64, operand: u32, mode: Mode) -> Res<PageGuard<'_, M>> {
        let page = self.page_explicit(pa, operand, mode, pt::TDR)?;
        self.tdr_sane(pa)?;
        Ok(page)
    }

    /// Locks the TDR that owns another page.
    pub(crate) fn tdr_implicit(&self, pa: u64, mode: Mode) -> Res<PageGuard<'_, M>> {
        let page = self.page_implicit_lock(pa, 0, mode, op::TDR)?;
        self.tdr_sane(pa)?;
        Ok(page)
    }

    pub(crate) fn td_raw(&self, tdr: u64) -> Td {
        Td {
            tdr,
            hkid: (self.tdr_rd(tdr, tdr::HKID) & (self.config.hkids() as u64 - 1)) as u16,
            tdcs: self.tdr_rd(tdr, tdr::TDCX_PA),
        }
    }

    /// Step 2 of every leaf that works on an existing TD: fatal, life cycle,
    /// TDCS, operation state. Takes the operation state lock shared if asked.
    pub(crate) fn td_open(
        &self,
        tdr: u64,
        leaf: u16,
        lock: bool,
    ) -> Res<(Td, Option<TdLock<'_, M>>)> {
        if self.tdr_rd(tdr, tdr::FATAL) != 0 {
            return Err(TD_FATAL);
        }
        if self.tdr_rd(tdr, tdr::LIFECYCLE) != lifecycle::KEYS_CONFIGURED {
            return Err(TD_KEYS_NOT_CONFIGURED);
        }
        if self.tdr_rd(tdr, tdr::NUM_TDCX) < MIN_TDCX {
            return Err(TDCS_NOT_ALLOCATED);
        }
        let td = self.td_raw(tdr);
        let guard = if lock {
            Some(self.hp_lock(&td, tdcs::OP_STATE_LOCK, Mode::Shared, op::OP_STATE)?)
        } else {
            None
        };
        if !opstate::allowed(leaf, self.tdcs_rd(&td, tdcs::OP_STATE)) {
            return Err(OP_STATE_INCORRECT);
        }
        Ok((td, guard))
    }

    /// Reads a field of the TDCS.
    pub(crate) fn tdcs_rd(&self, td: &Td, field: u64) -> u64 {
        self.rd(td.hkid, td.tdcs + field)
    }
    /// Writes a field of the TDCS.
    pub(crate) fn tdcs_wr(&self, td: &Td, field: u64, value: u64) {
        self.wr(td.hkid, td.tdcs + field, value);
    }
    /// A TDCX page.
    pub(crate) fn tdcx(&self, td: &Td, index: u64) -> u64 {
        self.tdr_rd(td.tdr, tdr::TDCX_PA + 8 * index)
    }
    /// Number of L2 VMs.
    pub(crate) fn l2_vms(&self, td: &Td) -> u16 {
        self.tdcs_rd(td, tdcs::NUM_L2_VMS).min(3) as u16
    }
    /// Whether the TD is debuggable.
    pub(crate) fn is_debug(&self, td: &Td) -> bool {
        self.tdcs_rd(td, tdcs::ATTRIBUTES) & 1 != 0
    }

    fn hp_lock(&self, td: &Td, field: u64, mode: Mode, operand: u32) -> Res<TdLock<'_, M>> {
        let at = td.tdcs + field;
        self.lock_step(td.hkid, at, |w| locks::hp_take(w, mode, Side::Host))
            .map_err(|e| with_op(e, operand))?;
        Ok(TdLock {
            m: self,
            hkid: td.hkid,
            at,
            mode,
            hp: true,
        })
    }

    /// Takes a lock without host priority: the S-EPT tree or the epoch.
    pub(crate) fn plain_lock(
        &self,
        td: &Td,
        field: u64,
        mode: Mode,
        operand: u32,
    ) -> Res<TdLock<'_, M>> {
        let at = td.tdcs + field;
        self.lock_step(td.hkid, at, |w| locks::take(w, mode))
            .map_err(|e| with_op(e, operand))?;
        Ok(TdLock {
            m: self,
            hkid: td.hkid,
            at,
            mode,
            hp: false,
        })
    }

    /// Reads a field of a vCPU.
    pub(crate) fn vp_rd(&self, td: &Td, tdvpr: u64, field: u64) -> u64 {
        self.rd(td.hkid, tdvpr + field)
    }
    /// Writes a field of a vCPU.
    pub(crate) fn vp_wr(&self, td: &Td, tdvpr: u64, field: u64, value: u64) {
        self.wr(td.hkid, tdvpr + field, value);
    }

    /// The vCPU has all its pages.
    pub(crate) fn vp_complete(&self, td: &Td, tdvpr: u64) -> Res {
        if self.vp_rd(td, tdvpr, tdvps::SIGNATURE) != tdvps::MAGIC {
            return self.stray(tdvpr);
        }
        let need = MIN_TDVPS + TDVPS_PER_L2 * u64::from(self.l2_vms(td));
        if self.vp_rd(td, tdvpr, tdvps::NUM_PAGES) < need {
            return Err(TDCX_NUM_INCORRECT);
        }
        Ok(())
    }
}
