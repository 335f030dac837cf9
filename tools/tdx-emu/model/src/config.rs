// SPDX-License-Identifier: GPL-2.0
//! The platform as the module finds it.

/// Most TDMRs SYS.CONFIG takes.
pub const MAX_TDMRS: usize = 64;
/// Most reserved areas of one TDMR.
pub const MAX_RESERVED: usize = 16;
/// Most logical processors.
pub const MAX_LPS: usize = 256;
/// Most packages.
pub const MAX_PKGS: usize = 8;
/// Most KeyIDs.
pub const MAX_HKIDS: usize = 128;
/// Most convertible memory ranges.
pub const MAX_CMRS: usize = 32;

/// What firmware and CPU tell the module.
#[derive(Clone, Debug)]
pub struct Config {
    /// Physical address width, KeyID bits included.
    pub max_pa: u32,
    /// Number of KeyID bits at the top of the physical address.
    pub hkid_bits: u32,
    /// First private KeyID. All above it are private.
    pub first_private_hkid: u16,
    /// Number of logical processors.
    pub lps: usize,
    /// Number of packages; LP `i` is in package `i % pkgs`.
    pub pkgs: usize,
    /// Base and size of the SEAM range, where no operand may point to.
    pub seamrr: (u64, u64),
    /// Convertible memory ranges (base, size); unused ones have size 0.
    pub cmrs: [(u64, u64); MAX_CMRS],
    /// ATTRIBUTES bits a TD may have.
    pub attributes_fixed0: u64,
    /// XFAM bits a TD may have.
    pub xfam_fixed0: u64,
    /// `config_flags` bits a TD may have.
    pub config_flags_fixed0: u64,
    /// 5-level EPT is supported.
    pub pml5: bool,
    /// TSC ticks per second.
    pub tsc_hz: u64,
    /// Number of sub-blocks PHYMEM.CACHE.WB can be interrupted between.
    pub wb_sub_blocks: u64,
    /// Encrypt memory. Off: every KeyID sees the same content.
    pub cipher: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// The default platform, also for a `static`.
    #[must_use]
    pub const fn new() -> Self {
        let mut cmrs = [(0, 0); MAX_CMRS];
        cmrs[0] = (0, 1 << 40);
        Config {
            max_pa: 52,
            hkid_bits: 6,
            first_private_hkid: 32,
            lps: 8,
            pkgs: 1,
            seamrr: (0, 0),
            cmrs,
            attributes_fixed0: 1 | 0xF << 27 | 1 << 63,
            xfam_fixed0: 7,
            config_flags_fixed0: 7,
            pml5: true,
            tsc_hz: 2_000_000_000,
            wb_sub_blocks: 4,
            cipher: true,
        }
    }

    /// Bit position of the KeyID in a physical address.
    #[must_use]
    pub fn hkid_shift(&self) -> u32 {
        self.max_pa - self.hkid_bits
    }
    /// The KeyID bits of a physical address.
    #[must_use]
    pub fn hkid_mask(&self) -> u64 {
        ((1 << self.hkid_bits) - 1) << self.hkid_shift()
    }
    /// The KeyID of a physical address.
    #[must_use]
    pub fn hkid_of(&self, pa: u64) -> u16 {
        ((pa & self.hkid_mask()) >> self.hkid_shift()) as u16
    }
    /// The address with a KeyID.
    #[must_use]
    pub fn with_hkid(&self, pa: u64, hkid: u16) -> u64 {
        pa & !self.hkid_mask() | u64::from(hkid) << self.hkid_shift()
    }
    /// Number of KeyIDs.
    #[must_use]
    pub fn hkids(&self) -> usize {
        (1usize << self.hkid_bits).min(MAX_HKIDS)
    }
    /// The package of a logical processor.
    #[must_use]
    pub fn pkg(&self, lp: usize) -> usize {
        lp % self.pkgs.max(1)
    }
    /// Whether `size` bytes from `base` lie in convertible memory.
    #[must_use]
    pub fn in_cmr(&self, base: u64, size: u64) -> bool {
        self.cmrs
            .iter()
            .any(|c| c.1 != 0 && base >= c.0 && base.saturating_add(size) <= c.0 + c.1)
    }
}
