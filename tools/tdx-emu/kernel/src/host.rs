// SPDX-License-Identifier: GPL-2.0

//! The machine as the model sees it: RAM through the direct map, tags in a table, the services
//! of the kernel.

use crate::{
    calllog,
    glue::{
        self,
        Range, //
    }, //
};
use core::sync::atomic::{
    AtomicU16,
    AtomicU64,
    Ordering, //
};
use kernel::prelude::*;
use tdx_emu_model::{
    config::MAX_CMRS,
    log::CallRecord,
    mem::{
        Word,
        LINE, //
    },
    PhysMem,
    Platform, //
};

/// Bytes of a tag.
const TAG: u64 = size_of::<AtomicU16>() as u64;

/// The machine.
///
/// # Invariants
///
/// The ranges in `ram` are RAM in the direct map, which starts at `direct_map`. They are of
/// whole pages.
pub(crate) struct Host {
    ram: [Range; MAX_CMRS],
    direct_map: usize,
    tags: VVec<AtomicU16>,
    /// Accesses outside of RAM.
    astray: Word,
}

impl Host {
    /// A machine without memory, for a `static`.
    pub(crate) const fn new() -> Self {
        Self {
            ram: [(0, 0); MAX_CMRS],
            direct_map: 0,
            tags: VVec::new(),
            astray: Word::new(0),
        }
    }

    /// This machine, with a table of `tag_mib` MiB for the tags of the RAM with the lowest
    /// addresses.
    ///
    /// Process context.
    ///
    /// # Errors
    ///
    /// `E2BIG`: RAM is in too many pieces. `ENOMEM`: no memory for the tags.
    pub(crate) fn probe(tag_mib: u32) -> Result<Self> {
        let mut host = Self::new();
        if glue::ram(&mut host.ram) > MAX_CMRS {
            pr_err!("RAM is in more than {MAX_CMRS} pieces\n");
            return Err(E2BIG);
        }
        host.direct_map = glue::direct_map();
        let lines = (host.ram_size() / LINE).min((u64::from(tag_mib) << 20) / TAG) as usize;
        host.tags = VVec::with_capacity(lines, GFP_KERNEL | __GFP_ZERO)?;
        // SAFETY: There is room for that many, and the allocation is zeroed, which is a value.
        unsafe { host.tags.inc_len(lines) };
        Ok(host)
    }

    /// The RAM there was when the module was loaded.
    pub(crate) fn ram(&self) -> &[Range; MAX_CMRS] {
        &self.ram
    }

    fn ram_size(&self) -> u64 {
        self.ram.iter().map(|r| r.1).sum()
    }

    /// Bytes of RAM that have tags.
    pub(crate) fn tagged(&self) -> u64 {
        self.tags.len() as u64 * LINE
    }

    /// Accesses outside of RAM.
    pub(crate) fn astray(&self) -> u64 {
        self.astray.get()
    }

    fn word(&self, pa: u64) -> Option<&AtomicU64> {
        let pa = pa & !7;
        if self.ram.iter().any(|r| pa.wrapping_sub(r.0) < r.1) {
            let at = self.direct_map.wrapping_add(pa as usize) as *mut u64;
            // SAFETY: By the invariants the page of `at` is mapped, and `at` is aligned. Whoever
            // else accesses a page that the host gave to the module does it against the rules
            // of TDX; this memory belongs to no Rust object.
            return Some(unsafe { AtomicU64::from_ptr(at) });
        }
        self.astray.add(1);
        None
    }

    fn tag_of(&self, line: u64) -> Option<&AtomicU16> {
        let mut before = 0;
        for r in &self.ram {
            let off = line.wrapping_sub(r.0);
            if off < r.1 {
                return self.tags.get(((before + off) / LINE) as usize);
            }
            before += r.1;
        }
        None
    }
}

// As on hardware: loads and stores are ordered as x86 does it, locks are taken by `cas`.
impl PhysMem for Host {
    fn read(&self, pa: u64) -> u64 {
        self.word(pa)
            .map_or(u64::MAX, |w| w.load(Ordering::Acquire))
    }

    fn write(&self, pa: u64, value: u64) {
        if let Some(w) = self.word(pa) {
            w.store(value, Ordering::Release);
        }
    }

    fn cas(&self, pa: u64, old: u64, new: u64) -> Result<(), u64> {
        match self.word(pa) {
            Some(w) => w
                .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
                .map(|_| ()),
            // A write that is ignored succeeds.
            None if old == u64::MAX => Ok(()),
            None => Err(u64::MAX),
        }
    }

    fn has_tags(&self) -> bool {
        !self.tags.is_empty()
    }

    fn tag_mask(&self) -> u64 {
        u16::MAX.into()
    }

    fn tag(&self, line: u64) -> u64 {
        self.tag_of(line)
            .map_or(0, |t| t.load(Ordering::Acquire).into())
    }

    fn set_tag(&self, line: u64, tag: u64) {
        if let Some(t) = self.tag_of(line) {
            t.store(tag as u16, Ordering::Release);
        }
    }
}

impl Platform for Host {
    fn tsc(&self, _lp: usize) -> u64 {
        glue::tsc()
    }

    fn interrupt_pending(&self, _lp: usize) -> bool {
        // SAFETY: The model runs in the trap handler only.
        unsafe { glue::InTrap::new() }.interrupt_pending()
    }

    fn random(&self) -> Option<u64> {
        Some(glue::random())
    }

    fn fault_callback(&self, _lp: usize, _leaf: u16, microseconds: u32) {
        glue::delay(microseconds);
    }

    fn log(&self, record: &CallRecord) {
        calllog::LOG.put(record);
    }
}
