// SPDX-License-Identifier: GPL-2.0
//! CPUID as the module virtualizes it.
//!
//! Which leaves a hypervisor may configure differs from module to module; the
//! list here is the model's. It has the length of the one of 1.5.05 and holds
//! what Linux needs: feature leaves, cache and topology, address sizes.

use crate::mem::Machine;
use crate::module::Module;
use crate::td::{tdcs, Td};

/// Leaf without subleaves.
const NONE: u32 = u32::MAX;

/// Leaf, subleaf and the configurable bits: EAX and EBX, ECX and EDX.
pub(crate) const CPUID_CONFIG: [(u32, u32, [u64; 2]); 18] = [
    (1, NONE, [u64::MAX; 2]),
    (4, 0, [u64::MAX; 2]),
    (4, 1, [u64::MAX; 2]),
    (4, 2, [u64::MAX; 2]),
    (4, 3, [u64::MAX; 2]),
    (4, 4, [u64::MAX; 2]),
    (7, 0, [u64::MAX; 2]),
    (7, 1, [u64::MAX; 2]),
    (7, 2, [u64::MAX; 2]),
    (0x1F, 0, [u64::MAX; 2]),
    (0x1F, 1, [u64::MAX; 2]),
    (0x1F, 2, [u64::MAX; 2]),
    (0x1F, 3, [u64::MAX; 2]),
    (0x1F, 4, [u64::MAX; 2]),
    (0x1F, 5, [u64::MAX; 2]),
    (0x1F, 6, [u64::MAX; 2]),
    (0x8000_0007, NONE, [0, 1 << 40]),
    // The guest's address width is not configured here.
    (0x8000_0008, NONE, [0xFF00_FFFF | u64::MAX << 32, u64::MAX]),
];

/// Leaves with values of their own.
const FIXED: [(u32, [u64; 2]); 3] = [
    (0, [0x756E_6547_0000_0021, 0x4965_6E69_6C65_746E]),
    (0x21, [0x6574_6E49_0000_0000, 0x5844_546C_2020_2020]),
    (0x8000_0000, [0x8000_0008, 0]),
];

/// The content of the metadata field CPUID_CONFIG_LEAVES.
pub(crate) fn config_leaf(index: u64) -> u64 {
    CPUID_CONFIG
        .get(index as usize)
        .map_or(0, |c| u64::from(c.0) | u64::from(c.1) << 32)
}

/// The content of the metadata field CPUID_CONFIG_VALUES.
pub(crate) fn config_bits(index: u64) -> u64 {
    CPUID_CONFIG
        .get(index as usize / 2)
        .map_or(0, |c| c.2[(index & 1) as usize])
}

impl<M: Machine> Module<M> {
    /// The value at a code of the TD field CPUID_VALUES, if the leaf has one.
    pub(super) fn cpuid_value(&self, td: &Td, code: u64) -> Option<u64> {
        let leaf = (code >> 9 & 0x7F) as u32 | ((code >> 16 & 1) as u32) << 31;
        let subleaf = match code >> 1 & 0xFF {
            n if n & 0x80 != 0 => NONE,
            n => n as u32,
        };
        let half = code & 1;
        if subleaf == NONE {
            if let Some(f) = FIXED.iter().find(|f| f.0 == leaf) {
                return Some(f.1[half as usize]);
            }
        }
        let i = CPUID_CONFIG
            .iter()
            .position(|c| (c.0, c.1) == (leaf, subleaf))?;
        Some(self.tdcs_rd(td, tdcs::CPUID + 16 * i as u64 + 8 * half))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let bytes = |w: u64| w.to_le_bytes();
        assert_eq!(&bytes(FIXED[0].1[0])[4..], b"Genu");
        assert_eq!(&bytes(FIXED[0].1[1])[..], b"ntelineI");
        assert_eq!(&bytes(FIXED[1].1[0])[4..], b"Inte");
        assert_eq!(&bytes(FIXED[1].1[1])[..], b"    lTDX");
    }

    #[test]
    fn fields() {
        assert_eq!(config_leaf(1), 4);
        assert_eq!(config_leaf(17), 0xFFFF_FFFF_8000_0008);
        assert_eq!(config_leaf(18), 0);
        assert_eq!(config_bits(33), 1 << 40);
    }
}
