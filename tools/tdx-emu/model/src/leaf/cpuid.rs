// SPDX-License-Identifier: GPL-2.0
//! CPUID as the module virtualizes it: computed when the TD is initialized, told by
//! MNG.RD, and what the guest gets.

use super::cpuid_table::{Choice, Leaf, BY_XFAM, CHOICES, LEAVES, NONE};
use super::guest::Vcpu;
use super::msr::index::ARCH_CAPABILITIES as IA32_ARCH_CAPABILITIES;
use crate::mem::Machine;
use crate::module::Module;
use crate::regs::op;
use crate::status::{with_op, Res, METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE};
use crate::status::{INCORRECT_MSR_VALUE, OPERAND_INVALID};
use crate::td::{td_ctls, tdcs, tdvps, Td};

/// The highest basic and extended leaf.
const LAST_BASIC: u32 = 0x23;
const LAST_EXTENDED: u32 = 0x8000_0008;
const HYPERVISOR: core::ops::RangeInclusive<u32> = 0x4000_0000..=0x4FFF_FFFF;
/// Family, model and stepping in EAX of leaf 1.
const FMS: u32 = 0x0FFF_3FFF;
/// Highest bit of XFAM.
const LAST_XFAM_BIT: u32 = 18;
/// The part of an XSAVE area that is always there.
const XSAVE_LEGACY: u32 = 576;
const ARCH_CAP_TSX_CTRL: u64 = 1 << 7;
/// Extended features that can be disabled by IA32_XFD: tile data.
const XFD: u64 = 1 << 18;

/// What of the guest's state CPUID depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuidState {
    /// The current privilege level is 0.
    pub supervisor: bool,
    /// CR4.
    pub cr4: u64,
    /// 64-bit mode.
    pub long_mode: bool,
}

/// Features of a TD that decide about MSRs and exits; from its CPUID values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    pub monitor: bool,
    pub waitpkg: bool,
    pub tsx: bool,
    pub xfd: bool,
    pub dca: bool,
    pub tme: bool,
    pub mktme: bool,
    pub tsc_deadline: bool,
}

/// The values of a TD have their place in its TDCS.
const _: () = {
    let (mut values, mut i) = (0, 0);
    while i < LEAVES.len() {
        values += (LEAVES[i].subs.1 - LEAVES[i].subs.0 + 1) as u64;
        i += 1;
    }
    assert!(16 * values <= tdcs::CPUID_SIZE);
};

/// The row of a leaf, and which of a TD's values it is.
fn lookup(leaf: u32, sub: u32) -> Option<(&'static Leaf, usize)> {
    let mut first = 0;
    for row in LEAVES {
        let (from, to) = row.subs;
        if row.leaf == leaf && (from == NONE || (from..=to).contains(&sub)) {
            let n = if from == NONE { 0 } else { sub - from };
            return Some((row, first + n as usize));
        }
        first += (to - from + 1) as usize;
    }
    None
}

fn choice(leaf: u32, sub: u32) -> Option<(usize, &'static Choice)> {
    CHOICES
        .iter()
        .enumerate()
        .find(|(_, c)| (c.leaf, c.sub) == (leaf, sub))
}

const fn halves(v: [u32; 4]) -> [u64; 2] {
    [
        v[0] as u64 | (v[1] as u64) << 32,
        v[2] as u64 | (v[3] as u64) << 32,
    ]
}

const fn quarters(w: [u64; 2]) -> [u32; 4] {
    [
        w[0] as u32,
        (w[0] >> 32) as u32,
        w[1] as u32,
        (w[1] >> 32) as u32,
    ]
}

/// How many leaves a hypervisor can configure.
pub(crate) const CHOICE_COUNT: usize = CHOICES.len();

/// The content of the metadata field CPUID_CONFIG_LEAVES.
pub(crate) fn config_leaf(index: u64) -> u64 {
    CHOICES
        .get(index as usize)
        .map_or(0, |c| u64::from(c.leaf) | u64::from(c.sub) << 32)
}

impl<M: Machine> Module<M> {
    /// CPUID of the machine. Leaves without subleaves have one, 0.
    fn native_cpuid(&self, leaf: u32, sub: u32) -> [u32; 4] {
        self.machine
            .cpuid(0, leaf, if sub == NONE { 0 } else { sub })
    }

    /// The content of the metadata field CPUID_CONFIG_VALUES: what a hypervisor can
    /// make 1 here.
    pub(crate) fn config_bits(&self, index: u64) -> u64 {
        let Some(c) = CHOICES.get(index as usize / 2) else {
            return 0;
        };
        let native = self.native_cpuid(c.leaf, c.sub);
        let bits = core::array::from_fn(|i| c.direct[i] | c.allow[i] & native[i]);
        halves(bits)[index as usize & 1]
    }

    /// Computes the TD's values from TD_PARAMS; `config` gives a word of its
    /// CPUID_CONFIG. The error has the leaf that is at fault, if one is.
    pub(super) fn cpuid_init(
        &self,
        td: &Td,
        config: impl Fn(usize) -> u64,
    ) -> Result<(), (u64, u64)> {
        let mut at = tdcs::CPUID;
        for row in LEAVES {
            for sub in row.subs.0..=row.subs.1 {
                let v = self.cpuid_compute(td, row, sub, &config)?;
                for w in halves(v) {
                    self.tdcs_wr(td, at, w);
                    at += 8;
                }
                if sub == NONE {
                    break;
                }
            }
        }
        Ok(())
    }

    fn cpuid_compute(
        &self,
        td: &Td,
        row: &Leaf,
        sub: u32,
        config: impl Fn(usize) -> u64,
    ) -> Result<[u32; 4], (u64, u64)> {
        let refused = || {
            let id = u64::from(row.leaf) | u64::from(sub) << 32;
            (with_op(OPERAND_INVALID, op::CPUID_CONFIG), id)
        };
        let mut v = self.native_cpuid(row.leaf, sub);
        for (i, v) in v.iter_mut().enumerate() {
            *v = *v & !row.zero[i] | row.one[i];
        }
        if let Some((n, c)) = choice(row.leaf, sub) {
            let asked = quarters([config(2 * n), config(2 * n + 1)]);
            for (i, v) in v.iter_mut().enumerate() {
                if asked[i] & !(c.direct[i] | c.allow[i]) != 0 {
                    return Err(refused());
                }
                *v = *v & !c.direct[i] | asked[i] & c.direct[i];
                *v &= asked[i] | !c.allow[i];
            }
        }
        let xfam = self.tdcs_rd(td, tdcs::XFAM);
        for (.., mask) in BY_XFAM
            .iter()
            .filter(|m| (m.0, m.1) == (row.leaf, sub) && xfam & m.2 != m.2)
        {
            for (v, m) in v.iter_mut().zip(mask) {
                *v &= !m;
            }
        }
        self.cpuid_special(td, row.leaf, sub, xfam, &mut v)
            .map_err(|status| if status == 0 { refused() } else { (status, 0) })?;
        Ok(v)
    }

    /// The leaves that depend on more than the tables say. Error 0: the hypervisor has
    /// asked for what cannot be.
    fn cpuid_special(&self, td: &Td, leaf: u32, sub: u32, xfam: u64, v: &mut [u32; 4]) -> Res {
        let attributes = self.tdcs_rd(td, tdcs::ATTRIBUTES);
        let bit = |n: u32| xfam >> n & 1 != 0;
        let has = match (leaf, sub) {
            (1, _) => {
                let native = self.native_cpuid(1, 0)[0] & FMS;
                if v[0] == 0 {
                    v[0] = native;
                }
                if v[0] != native {
                    return Err(0);
                }
                true
            }
            (5, _) => self.cpuid_stored(td, 1, 0)[2] >> 3 & 1 != 0,
            (7, 0) => {
                let hle = v[1] >> 4 & 1;
                if hle != v[1] >> 11 & 1 {
                    return Err(0);
                }
                let caps = self.machine.msr(0, IA32_ARCH_CAPABILITIES);
                if hle != 0 && caps & ARCH_CAP_TSX_CTRL == 0 {
                    return Err(with_op(INCORRECT_MSR_VALUE, IA32_ARCH_CAPABILITIES));
                }
                // PKS is an attribute; there is no key locker.
                v[2] = v[2] & !(1 << 31 | 1 << 23) | ((attributes >> 30 & 1) as u32) << 31;
                true
            }
            (0xA, _) => attributes >> 63 != 0,
            (0xD, 0) => {
                v[2] = self.xsave_size(xfam);
                true
            }
            (0xD, 1) => {
                if xfam & XFD == 0 {
                    v[0] &= !(1 << 4);
                }
                true
            }
            (0xD, n) => bit(n),
            (0x14, _) => bit(8),
            (0x15, _) => {
                v[1] = self.tdcs_rd(td, tdcs::TSC_FREQUENCY) as u32;
                true
            }
            (0x19, _) => false,
            (0x1C, _) => bit(15),
            (0x1D, _) => bit(17) && bit(18),
            (0x1F, n) => {
                v[2] = v[2] & !0xFF | n;
                true
            }
            (0x8000_0008, _) => {
                let la57 = self.cpuid_stored(td, 7, 0)[2] >> 16 & 1 != 0;
                v[0] = v[0] & !0xFF00 | if la57 { 57 } else { 48 } << 8;
                true
            }
            _ => true,
        };
        if !has {
            *v = [0; 4];
        }
        Ok(())
    }

    /// Bytes of an XSAVE area in the standard format.
    fn xsave_size(&self, xfam: u64) -> u32 {
        (2..=LAST_XFAM_BIT)
            .filter(|n| xfam >> n & 1 != 0)
            .map(|n| self.native_cpuid(0xD, n))
            // Supervisor state has no place in it.
            .filter(|v| v[2] & 1 == 0)
            .map(|v| v[0].saturating_add(v[1]))
            .fold(XSAVE_LEGACY, u32::max)
    }

    /// What the TD was given.
    fn cpuid_stored(&self, td: &Td, leaf: u32, sub: u32) -> [u32; 4] {
        let Some((_, n)) = lookup(leaf, sub) else {
            return [0; 4];
        };
        let at = |half: u64| tdcs::CPUID + 16 * n as u64 + 8 * half;
        quarters([self.tdcs_rd(td, at(0)), self.tdcs_rd(td, at(1))])
    }

    /// The features that decide about MSRs and exits.
    pub(super) fn td_features(&self, td: &Td) -> Features {
        let one = self.cpuid_stored(td, 1, 0);
        let seven = self.cpuid_stored(td, 7, 0);
        let bit = |word: u32, n: u32| word >> n & 1 != 0;
        Features {
            monitor: bit(one[2], 3),
            waitpkg: bit(seven[2], 5),
            tsx: bit(seven[1], 4),
            xfd: bit(self.cpuid_stored(td, 0xD, 1)[0], 4),
            dca: bit(one[2], 18),
            tme: bit(seven[2], 13),
            mktme: bit(seven[3], 18),
            tsc_deadline: bit(one[2], 24),
        }
    }

    /// The value at a code of the TD field CPUID_VALUES.
    pub(super) fn cpuid_value(&self, td: &Td, code: u64) -> Res<u64> {
        let leaf = (code >> 9 & 0x7F) as u32 | ((code >> 16 & 1) as u32) << 31;
        let sub = match code >> 1 & 0xFF {
            n if n & 0x80 != 0 => NONE,
            n => n as u32,
        };
        match lookup(leaf, sub) {
            None => Err(METADATA_FIELD_ID_INCORRECT),
            Some((row, _)) if (row.subs.0 == NONE) != (sub == NONE) => {
                Err(METADATA_FIELD_ID_INCORRECT)
            }
            Some((row, _)) if row.faulting => Err(METADATA_FIELD_NOT_READABLE),
            Some(_) => Ok(halves(self.cpuid_stored(td, leaf, sub))[code as usize & 1]),
        }
    }

    /// Whether the hypervisor has described the TD's topology: leaf 0x1F, and an x2APIC
    /// id for every vCPU.
    pub(super) fn topology_configured(&self, td: &Td) -> bool {
        self.cpuid_stored(td, 0x1F, 0)[2] >> 8 & 0xFF != 0
            && self.tdcs_rd(td, tdcs::NUM_X2APIC_IDS) == self.tdcs_rd(td, tdcs::NUM_VCPUS)
    }

    /// Leaves 0xB and 0x1F, if the guest has turned them on.
    fn cpuid_topology(&self, v: &Vcpu, leaf: u32, sub: u32) -> Option<[u32; 4]> {
        if self.tdcs_rd(&v.td, tdcs::TD_CTLS) & td_ctls::ENUM_TOPOLOGY == 0 {
            return None;
        }
        let level = |n| self.cpuid_stored(&v.td, 0x1F, n);
        let kind = |l: [u32; 4]| l[2] >> 8 & 0xFF;
        let last = (0..6)
            .rev()
            .map(level)
            .find(|l| kind(*l) != 0)
            .unwrap_or_default();
        let mut out = match (leaf, sub) {
            (0x1F, 0..=5) => level(sub),
            // Threads and all above them.
            (0xB, 0) => level(0),
            (0xB, 1) => [last[0], last[1], 2 << 8 | 1, 0],
            _ => [0, 0, sub & 0xFF, 0],
        };
        if kind(out) == 0 {
            out = [0, 0, sub & 0xFF, 0];
        }
        out[3] = self.x2apic_id(&v.td, self.vget(v, tdvps::VCPU_INDEX));
        Some(out)
    }

    /// CPUID by the guest on `lp`; `None`: a virtualization exception.
    pub fn guest_cpuid(&self, lp: usize, leaf: u32, sub: u32, s: &CpuidState) -> Option<[u32; 4]> {
        let v = self.vcpu_in(lp)?;
        let leaf = match leaf {
            n if HYPERVISOR.contains(&n) => n,
            n if n > LAST_EXTENDED || (LAST_BASIC + 1..0x8000_0000).contains(&n) => LAST_BASIC,
            n => n,
        };
        let asks = self.vget(&v, tdvps::CPUID_VE);
        if asks & if s.supervisor { 1 } else { 2 } != 0 {
            return None;
        }
        if matches!(leaf, 0xB | 0x1F) {
            return self.cpuid_topology(&v, leaf, sub);
        }
        let (row, _) = lookup(leaf, sub)?;
        if row.faulting {
            return None;
        }
        let mut out = self.cpuid_stored(&v.td, leaf, sub);
        let mut put =
            |i: usize, bit: u32, on: bool| out[i] = out[i] & !(1 << bit) | u32::from(on) << bit;
        match (leaf, sub) {
            (1, _) => {
                put(2, 27, s.cr4 >> 18 & 1 != 0);
                let index = self.vget(&v, tdvps::VCPU_INDEX) as u32;
                out[1] = out[1] & 0x00FF_FFFF | index << 24;
            }
            (7, 0) => put(2, 4, s.cr4 >> 22 & 1 != 0),
            // What the enabled features need, which only the CPU knows.
            (0xD, 0 | 1) => out[1] = self.machine.cpuid(lp, leaf, sub)[1],
            (0x8000_0001, _) => put(3, 11, s.long_mode),
            _ => {}
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_place_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for row in LEAVES {
            for sub in row.subs.0..=row.subs.1 {
                let (found, n) = lookup(row.leaf, sub).unwrap();
                assert_eq!(found.leaf, row.leaf);
                assert!(seen.insert(n), "{:x}.{sub:x}", row.leaf);
                if sub == NONE {
                    break;
                }
            }
        }
        // Without a gap.
        assert_eq!(seen.last().copied(), seen.len().checked_sub(1));
    }

    #[test]
    fn tables_do_not_contradict_themselves() {
        for row in LEAVES {
            for i in 0..4 {
                assert_eq!(row.zero[i] & row.one[i], 0, "{:x}", row.leaf);
            }
            if let Some((_, c)) = choice(row.leaf, row.subs.0) {
                for i in 0..4 {
                    assert_eq!(c.direct[i] & c.allow[i], 0, "{:x}", c.leaf);
                    assert_eq!(c.allow[i] & (row.zero[i] | row.one[i]), 0, "{:x}", c.leaf);
                }
            }
        }
        for c in &CHOICES {
            assert!(lookup(c.leaf, c.sub).is_some(), "{:x}", c.leaf);
        }
    }

    #[test]
    fn names() {
        let bytes = |leaf| {
            let one = lookup(leaf, 0).unwrap().0.one;
            [one[1], one[3], one[2]].map(u32::to_le_bytes).concat()
        };
        assert_eq!(bytes(0x21), b"IntelTDX    ");
        assert_eq!(lookup(0, 0).unwrap().0.one[0], LAST_BASIC);
        assert_eq!(lookup(0x8000_0000, 0).unwrap().0.one[0], LAST_EXTENDED);
    }

    #[test]
    fn fields() {
        assert_eq!(config_leaf(1), 4);
        assert_eq!(config_leaf(9), 0xFFFF_FFFF_8000_0008);
        assert_eq!(config_leaf(18), 0);
    }
}
