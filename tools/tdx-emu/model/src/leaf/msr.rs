// SPDX-License-Identifier: GPL-2.0
//! What becomes of RDMSR and WRMSR of a guest.
//!
//! Source: the table of the published Intel TDX module 1.5.01 (`msr_config_lookup.c`) and
//! its exit handlers (`td_msr_access.c`). The VMX capabilities, which it computes for
//! nested guests, are virtualization exceptions here.

use super::cpuid::Features;
use crate::mem::Machine;
use crate::module::Module;
use crate::td::{tdcs, Td};

/// What the CPU or the guest sees of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAccess {
    /// The CPU carries it out.
    Native,
    /// RDMSR gives this.
    Value(u64),
    /// Virtualization exception.
    VirtException,
    /// General protection fault.
    Fault,
}

/// A feature that a TD has or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    Perfmon,
    PerfMetrics,
    Waitpkg,
    Tsx,
    Xfd,
    Pt,
    Cet,
    Pks,
    Uintr,
    Lbr,
    Mktme,
    Dca,
    Tme,
    TscDeadline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Native,
    Ve,
    Gp,
    /// Native with the feature, else a general protection fault.
    If(Has),
    /// A virtualization exception with the feature, else a general protection fault.
    VeIf(Has),
    /// See [`Module::msr_special`].
    Special,
}

use Has::{
    Cet, Dca, Lbr, Mktme, PerfMetrics, Perfmon, Pks, Pt, Tme, TscDeadline, Tsx, Uintr, Waitpkg, Xfd,
};
use Rule::{Gp, If, Native, Special, Ve, VeIf};

/// First and last MSR, what RDMSR does, what WRMSR does. Sorted. All others are
/// virtualization exceptions.
const MSRS: &[(u32, u32, Rule, Rule)] = &[
    (0x10, 0x10, Native, Ve),
    (0x48, 0x49, Native, Native),
    (0x87, 0x87, VeIf(Mktme), VeIf(Mktme)),
    (0x8C, 0x8F, Gp, Gp),
    (0x98, 0x9B, Gp, Gp),
    (0x9E, 0x9E, Gp, Gp),
    (0xBC, 0xBC, Native, Ve),
    (0xBD, 0xBD, Special, Native),
    (0xC1, 0xC8, If(Perfmon), If(Perfmon)),
    (0xE1, 0xE1, If(Waitpkg), If(Waitpkg)),
    (0x10A, 0x10A, Special, Native),
    (0x10B, 0x10B, Native, Native),
    (0x122, 0x122, If(Tsx), If(Tsx)),
    (0x174, 0x176, Native, Native),
    (0x186, 0x18D, If(Perfmon), If(Perfmon)),
    (0x195, 0x195, Gp, Gp),
    (0x1A0, 0x1A0, Special, Ve),
    (0x1A6, 0x1A7, If(Perfmon), If(Perfmon)),
    (0x1C4, 0x1C5, If(Xfd), If(Xfd)),
    (0x1D9, 0x1D9, Special, Special),
    (0x1F8, 0x1FA, VeIf(Dca), VeIf(Dca)),
    (0x276, 0x276, Gp, Gp),
    (0x277, 0x277, Native, Native),
    (0x309, 0x310, If(Perfmon), If(Perfmon)),
    (0x329, 0x329, If(PerfMetrics), If(PerfMetrics)),
    (0x345, 0x345, Special, If(Perfmon)),
    (0x38D, 0x392, If(Perfmon), If(Perfmon)),
    (0x3F1, 0x3F2, If(Perfmon), If(Perfmon)),
    (0x3F6, 0x3F7, If(Perfmon), If(Perfmon)),
    (0x480, 0x480, Special, Gp),
    (0x481, 0x484, Ve, Gp),
    (0x485, 0x489, Special, Gp),
    (0x48A, 0x48A, Ve, Gp),
    (0x48B, 0x492, Special, Gp),
    (0x4C1, 0x4C8, If(Perfmon), If(Perfmon)),
    (0x500, 0x500, Gp, Gp),
    (0x560, 0x561, If(Pt), If(Pt)),
    (0x570, 0x572, If(Pt), If(Pt)),
    (0x580, 0x587, If(Pt), If(Pt)),
    (0x600, 0x600, Native, Native),
    (0x6A0, 0x6A0, If(Cet), If(Cet)),
    (0x6A2, 0x6A2, If(Cet), If(Cet)),
    (0x6A4, 0x6A8, If(Cet), If(Cet)),
    (0x6E0, 0x6E0, VeIf(TscDeadline), VeIf(TscDeadline)),
    (0x6E1, 0x6E1, If(Pks), If(Pks)),
    (0x800, 0x801, Gp, Gp),
    (0x804, 0x807, Gp, Gp),
    (0x808, 0x80C, Native, Native),
    (0x80E, 0x80E, Native, Native),
    (0x810, 0x827, Native, Native),
    (0x829, 0x82E, Gp, Gp),
    (0x831, 0x831, Gp, Gp),
    (0x83F, 0x83F, Native, Native),
    (0x840, 0x8FF, Gp, Gp),
    (0x981, 0x984, VeIf(Tme), VeIf(Tme)),
    (0x985, 0x98A, If(Uintr), If(Uintr)),
    (0xC80, 0xC80, Native, Ve),
    (0xD90, 0xD90, Gp, Gp),
    (0xD93, 0xD93, Gp, Gp),
    (0xDA0, 0xDA0, Native, Special),
    (0x1200, 0x12FF, If(Lbr), If(Lbr)),
    (0x14CE, 0x14CF, If(Lbr), If(Lbr)),
    (0x1500, 0x16FF, If(Lbr), If(Lbr)),
    (0x1B01, 0x1B01, Native, Native),
    (0xC000_0080, 0xC000_0080, Native, Special),
    (0xC000_0081, 0xC000_0082, Native, Native),
    (0xC000_0084, 0xC000_0084, Native, Native),
    (0xC000_0100, 0xC000_0103, Native, Native),
];

#[allow(missing_docs)]
pub(super) mod index {
    pub const XAPIC_DISABLE_STATUS: u32 = 0xBD;
    pub const ARCH_CAPABILITIES: u32 = 0x10A;
    pub const MISC_ENABLE: u32 = 0x1A0;
    pub const DEBUGCTL: u32 = 0x1D9;
    pub const PERF_CAPABILITIES: u32 = 0x345;
    pub const XSS: u32 = 0xDA0;
    pub const EFER: u32 = 0xC000_0080;
}

/// IA32_MISC_ENABLE: performance monitoring available, PEBS unavailable.
const MISC_PERFMON: u64 = 1 << 7;
const MISC_NO_PEBS: u64 = 1 << 12;
const EFER_SCE: u64 = 1;
const EFER_LMA: u64 = 1 << 10;
/// IA32_DEBUGCTL: reserved bits, and branch trace messages to nowhere.
const DEBUGCTL_RESERVED: u64 = !0xDFC3;
const DEBUGCTL_TR: u64 = 1 << 6;
const DEBUGCTL_BTS: u64 = 1 << 7;
/// What IA32_XSS can have: PT, PASID, CET, HDC, UINTR, LBR, HWP.
const XSS_BITS: u64 = 1 << 8 | 1 << 10 | 3 << 11 | 1 << 13 | 1 << 14 | 1 << 15 | 1 << 16;
const ATTR_PERFMON: u64 = 1 << 63;
const ATTR_PKS: u64 = 1 << 30;

fn rule(index: u32, write: bool) -> Rule {
    MSRS.iter()
        .find(|m| (m.0..=m.1).contains(&index))
        .map_or(Ve, |m| if write { m.3 } else { m.2 })
}

/// IA32_ARCH_CAPABILITIES of a TD: what the CPU has, what TD_PARAMS chose, and whether the
/// TD has TSX.
pub(super) const fn arch_capabilities(native: u64, chosen: u64, tsx: bool) -> u64 {
    // SSB_NO, BHI_NO and PBRSB_NO only if chosen, RRSBA also if chosen.
    let allowed = 1 << 4 | 1 << 20 | 1 << 24;
    let zero: u64 = 7 << 9 | 7 << 16 | 7 << 21 | !0 << 25 | if tsx { 0 } else { 1 << 7 };
    native & !zero & (chosen | !allowed) | chosen & 1 << 19
}

impl<M: Machine> Module<M> {
    fn td_has(&self, td: &Td, what: Has) -> bool {
        let xfam = |bits: u64| self.tdcs_rd(td, tdcs::XFAM) & bits == bits;
        let attribute = |bit: u64| self.tdcs_rd(td, tdcs::ATTRIBUTES) & bit != 0;
        let f: Features = self.td_features(td);
        match what {
            Perfmon | PerfMetrics => attribute(ATTR_PERFMON),
            Pks => attribute(ATTR_PKS),
            Pt => xfam(1 << 8),
            Cet => xfam(3 << 11),
            Uintr => xfam(1 << 14),
            Lbr => xfam(1 << 15),
            Waitpkg => f.waitpkg,
            Tsx => f.tsx,
            Xfd => f.xfd,
            Mktme => f.mktme,
            Dca => f.dca,
            Tme => f.tme,
            TscDeadline => f.tsc_deadline,
        }
    }

    /// RDMSR (`write` is `None`) or WRMSR by the guest on `lp`.
    pub fn guest_msr(&self, lp: usize, index: u32, write: Option<u64>) -> MsrAccess {
        let Some(v) = self.vcpu_in(lp) else {
            return MsrAccess::Fault;
        };
        match rule(index, write.is_some()) {
            Native => MsrAccess::Native,
            Ve => MsrAccess::VirtException,
            Gp => MsrAccess::Fault,
            If(what) if self.td_has(&v.td, what) => MsrAccess::Native,
            VeIf(what) if self.td_has(&v.td, what) => MsrAccess::VirtException,
            If(_) | VeIf(_) => MsrAccess::Fault,
            Special => self.msr_special(lp, &v.td, index, write),
        }
    }

    fn msr_special(&self, lp: usize, td: &Td, index: u32, write: Option<u64>) -> MsrAccess {
        let current = || self.machine.msr(lp, index);
        match (index, write) {
            (index::XAPIC_DISABLE_STATUS, None) => MsrAccess::Value(1),
            (index::ARCH_CAPABILITIES, None) => {
                MsrAccess::Value(self.tdcs_rd(td, tdcs::ARCH_CAPABILITIES))
            }
            (index::MISC_ENABLE, None) if self.td_has(td, Perfmon) => MsrAccess::Native,
            (index::MISC_ENABLE, None) => {
                MsrAccess::Value(current() & !MISC_PERFMON | MISC_NO_PEBS)
            }
            (index::PERF_CAPABILITIES, None) if self.td_has(td, Perfmon) => MsrAccess::Native,
            (index::PERF_CAPABILITIES, None) => MsrAccess::Value(0),
            (index::DEBUGCTL, None) => MsrAccess::Native,
            (index::DEBUGCTL, Some(new)) if new & DEBUGCTL_RESERVED != 0 => MsrAccess::Fault,
            (index::DEBUGCTL, Some(new)) if new & (DEBUGCTL_TR | DEBUGCTL_BTS) == DEBUGCTL_TR => {
                MsrAccess::VirtException
            }
            (index::DEBUGCTL, Some(_)) => MsrAccess::Native,
            (index::XSS, Some(new)) => {
                let allowed = XSS_BITS & self.tdcs_rd(td, tdcs::XFAM);
                if new & !allowed == 0 {
                    MsrAccess::Native
                } else {
                    MsrAccess::Fault
                }
            }
            // The guest turns SYSCALL on; all else of it is the module's.
            (index::EFER, Some(new)) if (new ^ current()) & !(EFER_SCE | EFER_LMA) == 0 => {
                MsrAccess::Native
            }
            _ => MsrAccess::VirtException,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        for w in MSRS.windows(2) {
            assert!(w[0].0 <= w[0].1 && w[0].1 < w[1].0, "{:x}", w[1].0);
        }
    }

    #[test]
    fn rules() {
        for (index, read, write) in [
            (0x10, Native, Ve),
            (0x1B, Ve, Ve),
            (0x48, Native, Native),
            (0x1A0, Special, Ve),
            (0x3A, Ve, Ve),
            (0x480, Special, Gp),
            (0x6E0, VeIf(TscDeadline), VeIf(TscDeadline)),
            (0x6A2, If(Cet), If(Cet)),
            (0x80B, Native, Native),
            (0x830, Ve, Ve),
            (0xC000_0080, Native, Special),
            (0xC000_0083, Ve, Ve),
        ] {
            assert_eq!(
                (rule(index, false), rule(index, true)),
                (read, write),
                "{index:x}"
            );
        }
    }

    #[test]
    fn arch_capabilities_of_a_td() {
        let caps = arch_capabilities;
        assert_eq!(caps(u64::MAX, 0, false), 0x8_F16F);
        assert_eq!(
            caps(u64::MAX, 1 << 4 | 1 << 19, true) & (1 << 4 | 1 << 7 | 1 << 19),
            1 << 4 | 1 << 7 | 1 << 19
        );
        assert_eq!(caps(0, 1 << 4 | 1 << 19 | 1 << 20, true), 1 << 19);
    }
}
