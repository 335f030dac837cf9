// SPDX-License-Identifier: GPL-2.0
//! `PRIVMEMFD_STAT` in words.

use crate::{uapi, Mobility};

/// Memory zones, in the order of `privmemfd_stat.zone_pages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// The first 16 MiB.
    Dma = uapi::PRIVMEMFD_ZONE_DMA as isize,
    /// Below 4 GiB.
    Dma32 = uapi::PRIVMEMFD_ZONE_DMA32 as isize,
    /// All other memory that may hold unmovable pages.
    Normal = uapi::PRIVMEMFD_ZONE_NORMAL as isize,
    /// Memory kept for movable pages.
    Movable = uapi::PRIVMEMFD_ZONE_MOVABLE as isize,
    /// Memory of a device.
    Device = uapi::PRIVMEMFD_ZONE_DEVICE as isize,
}

impl Zone {
    /// Every zone.
    pub const ALL: [Zone; 5] = [
        Zone::Dma,
        Zone::Dma32,
        Zone::Normal,
        Zone::Movable,
        Zone::Device,
    ];

    /// Its name in `/proc/zoneinfo`.
    pub fn name(self) -> &'static str {
        match self {
            Zone::Dma => "DMA",
            Zone::Dma32 => "DMA32",
            Zone::Normal => "Normal",
            Zone::Movable => "Movable",
            Zone::Device => "Device",
        }
    }
}

/// Why a page was not moved, in the order of `privmemfd_stat.refused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The file is pinned.
    Pinned = uapi::PRIVMEMFD_REFUSED_PINNED as isize,
    /// Another operation on the file was under way.
    Busy = uapi::PRIVMEMFD_REFUSED_BUSY as isize,
    /// A bound VM could not be kept off the page.
    Guest = uapi::PRIVMEMFD_REFUSED_GUEST as isize,
    /// The page's memory is failing.
    Poison = uapi::PRIVMEMFD_REFUSED_POISON as isize,
    /// The host could not copy the content.
    Backend = uapi::PRIVMEMFD_REFUSED_BACKEND as isize,
    /// No memory for the new page.
    NoMem = uapi::PRIVMEMFD_REFUSED_NOMEM as isize,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Refusal; 6] = [
        Refusal::Pinned,
        Refusal::Busy,
        Refusal::Guest,
        Refusal::Poison,
        Refusal::Backend,
        Refusal::NoMem,
    ];

    /// A word for tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Pinned => "pinned",
            Refusal::Busy => "busy",
            Refusal::Guest => "guest",
            Refusal::Poison => "poison",
            Refusal::Backend => "backend",
            Refusal::NoMem => "nomem",
        }
    }
}

/// What the kernel counts about a privmemfd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Flags the file was made with.
    pub flags: u64,
    /// Bytes.
    pub size: u64,
    /// Pages that have memory.
    pub pages: u64,
    /// The same by zone.
    pub zone_pages: [u64; uapi::PRIVMEMFD_NR_ZONES as usize],
    /// Pages lost to failing memory.
    pub poisoned: u64,
    /// VMs the file is bound to.
    pub vms: u64,
    /// Memslots the file is bound to.
    pub slots: u64,
    /// Relocations done.
    pub relocated: u64,
    /// Relocations refused, by reason.
    pub refused: [u64; uapi::PRIVMEMFD_NR_REFUSED as usize],
}

impl Stat {
    /// Whether the host may move the pages; `None` if the flags say nothing.
    pub fn mobility(&self) -> Option<Mobility> {
        let has = |flag: u32| self.flags & u64::from(flag) != 0;
        if has(uapi::PRIVMEMFD_MOVABLE) {
            Some(Mobility::Movable)
        } else if has(uapi::PRIVMEMFD_PINNED) {
            Some(Mobility::Pinned)
        } else {
            None
        }
    }

    /// Pages in a zone.
    pub fn in_zone(&self, zone: Zone) -> u64 {
        self.zone_pages[zone as usize]
    }

    /// Relocations refused for a reason.
    pub fn refused_for(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize]
    }
}

impl From<&uapi::privmemfd_stat> for Stat {
    fn from(raw: &uapi::privmemfd_stat) -> Self {
        Self {
            flags: raw.flags,
            size: raw.size,
            pages: raw.pages,
            zone_pages: raw.zone_pages,
            poisoned: raw.poisoned,
            vms: raw.vms,
            slots: raw.slots,
            relocated: raw.relocated,
            refused: raw.refused,
        }
    }
}
