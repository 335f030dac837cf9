// SPDX-License-Identifier: GPL-2.0
//! The physical address metadata table.
//!
//! One 16-byte entry per page and size level, in memory that SYS.CONFIG was
//! given, encrypted with the module's global KeyID. Word 0: lock (15:0), page
//! type (23:16), owner page number (63:24); word 1: block epoch. Freeing a page
//! writes only the type: owner and epoch stay behind, and can be read.
//!
//! Source: `pamt_manager.c` of the published Intel TDX module 1.5.

use crate::locks::{self, Mode, Side};
use crate::mem::{Machine, PAGE};
use crate::module::Module;
use crate::status::{
    with_op, Res, OPERAND_ADDR_RANGE_ERROR, OPERAND_BUSY, OPERAND_INVALID, PAGE_METADATA_INCORRECT,
};

/// Page types.
#[allow(missing_docs)]
pub mod pt {
    /// Not directly assigned: the page is the host's.
    pub const NDA: u8 = 0;
    pub const RSVD: u8 = 1;
    pub const REG: u8 = 3;
    pub const TDR: u8 = 4;
    pub const TDCX: u8 = 5;
    pub const TDVPR: u8 = 6;
    pub const EPT: u8 = 8;
}

/// An entry's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Lock word.
    pub lock: u16,
    /// Page type, see [`pt`].
    pub pt: u8,
    /// Address of the owning TDR.
    pub owner: u64,
    /// Block epoch.
    pub bepoch: u64,
}

/// Where the entries of a page are, by size level (4K, 2M, 1G).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block(pub [u64; 3]);

/// A held lock of a PAMT entry, and of the enclosing ones if it was found
/// through an explicit operand.
pub(crate) struct PageGuard<'m, M: Machine> {
    m: &'m Module<M>,
    block: Block,
    pub level: u8,
    mode: Mode,
    explicit: bool,
}

impl<M: Machine> Drop for PageGuard<'_, M> {
    fn drop(&mut self) {
        self.m
            .pamt_release(self.block.0[usize::from(self.level)], self.mode);
        if self.explicit {
            for up in self.level + 1..3 {
                self.m
                    .pamt_release(self.block.0[usize::from(up)], Mode::Shared);
            }
        }
    }
}

impl<M: Machine> PageGuard<'_, M> {
    fn at(&self) -> u64 {
        self.block.0[usize::from(self.level)]
    }
    pub fn entry(&self) -> Entry {
        self.m.pamt_entry(self.at())
    }
    /// Makes the page the TD's, with block epoch 0.
    pub fn assign(&self, ty: u8, owner: u64) {
        self.m.pamt_set(self.at(), ty, Some(owner), Some(0));
    }
    /// Makes the page the TD's and leaves the block epoch.
    pub fn assign_keep_epoch(&self, ty: u8, owner: u64) {
        self.m.pamt_set(self.at(), ty, Some(owner), None);
    }
    /// Gives the page back: only the type changes.
    pub fn free(&self) {
        self.m.pamt_set(self.at(), pt::NDA, None, None);
    }
}

impl<M: Machine> Module<M> {
    /// Where the entries for `pa` are, if its 1 GiB block is initialized.
    pub(crate) fn pamt_block(&self, pa: u64) -> Option<Block> {
        let n = self.g.n_tdmrs.get() as usize;
        let t = self.g.tdmrs[..n].iter().rfind(|t| t.base.get() <= pa)?;
        let (base, size) = (t.base.get(), t.size.get());
        if pa >= base + size || pa >= t.initialized.get() & !((1 << 30) - 1) {
            return None;
        }
        let at = |l: usize| t.pamt[l].get() + ((pa - base) >> (12 + 9 * l)) * 16;
        Some(Block([at(0), at(1), at(2)]))
    }

    pub(crate) fn pamt_entry(&self, at: u64) -> Entry {
        let h = self.global_hkid();
        let w = self.rd(h, at);
        Entry {
            lock: w as u16,
            pt: (w >> 16) as u8,
            owner: w >> 24 << 12,
            bepoch: self.rd(h, at + 8),
        }
    }

    pub(crate) fn pamt_set(&self, at: u64, ty: u8, owner: Option<u64>, bepoch: Option<u64>) {
        let h = self.global_hkid();
        if let Some(b) = bepoch {
            self.wr(h, at + 8, b);
        }
        self.update(h, at, |w| {
            let mut n = w & !(0xFF << 16) | u64::from(ty) << 16;
            if let Some(o) = owner {
                n = n & 0xFF_FFFF | o >> 12 << 24;
            }
            (n, ())
        });
    }

    pub(crate) fn pamt_step<T: Copy>(&self, at: u64, f: impl Fn(u16) -> (u16, T)) -> T {
        self.update(self.global_hkid(), at, |w| {
            let (n, out) = f(w as u16);
            (w & !0xFFFF | u64::from(n), out)
        })
    }

    fn pamt_take(&self, at: u64, mode: Mode) -> Res {
        self.pamt_step(at, |w| locks::hp_take(w, mode, Side::Host))
    }

    fn pamt_release(&self, at: u64, mode: Mode) {
        self.pamt_step(at, |w| (locks::hp_release(w, mode), ()));
    }

    /// Walks from the 1 GiB entry down, taking the enclosing entries shared.
    /// Stops at a page of the TD, or at `target` if given.
    pub(crate) fn pamt_walk(
        &self,
        block: Block,
        mode: Mode,
        target: Option<u8>,
    ) -> Res<PageGuard<'_, M>> {
        let target = target.unwrap_or(0);
        let mut held = 3u8;
        let back_out = |held: u8| {
            for l in held..3 {
                self.pamt_release(block.0[usize::from(l)], Mode::Shared);
            }
        };
        for level in [2u8, 1, 0] {
            let at = block.0[usize::from(level)];
            if level == 0 {
                if let Err(e) = self.pamt_take(at, mode) {
                    back_out(held);
                    return Err(e);
                }
                break;
            }
            if let Err(e) = self.pamt_take(at, Mode::Shared) {
                back_out(held);
                return Err(e);
            }
            held = level;
            if self.pamt_entry(at).pt == pt::REG || target == level {
                if mode == Mode::Exclusive {
                    if let Err(e) = self.pamt_step(at, locks::hp_promote) {
                        back_out(held);
                        return Err(e);
                    }
                }
                return Ok(PageGuard {
                    m: self,
                    block,
                    level,
                    mode,
                    explicit: true,
                });
            }
        }
        Ok(PageGuard {
            m: self,
            block,
            level: 0,
            mode,
            explicit: true,
        })
    }

    /// An address in a private page operand: aligned, no KeyID, below MAXPA.
    pub(crate) fn hpa_ok(&self, pa: u64, align: u64) -> bool {
        pa & (align - 1) == 0 && self.config.hkid_of(pa) == 0 && pa >> self.config.max_pa == 0
    }

    /// Checks and locks an explicit page operand of the given size level.
    pub(crate) fn page_explicit_sized(
        &self,
        pa: u64,
        operand: u32,
        mode: Mode,
        ty: u8,
        level: u8,
    ) -> Res<PageGuard<'_, M>> {
        if !self.hpa_ok(pa, PAGE << (9 * u32::from(level))) {
            return Err(with_op(OPERAND_INVALID, operand));
        }
        let block = self
            .pamt_block(pa)
            .ok_or(with_op(OPERAND_ADDR_RANGE_ERROR, operand))?;
        let page = self
            .pamt_walk(block, mode, Some(level))
            .map_err(|e| with_op(e, operand))?;
        if page.level != level || page.entry().pt != ty {
            return Err(with_op(PAGE_METADATA_INCORRECT, operand));
        }
        Ok(page)
    }

    /// Checks and locks an explicit 4 KiB page operand.
    pub(crate) fn page_explicit(
        &self,
        pa: u64,
        operand: u32,
        mode: Mode,
        ty: u8,
    ) -> Res<PageGuard<'_, M>> {
        self.page_explicit_sized(pa, operand, mode, ty, 0)
    }

    /// The same for a free page; a free 2 MiB page has 512 free children.
    pub(crate) fn page_free(&self, pa: u64, operand: u32, level: u8) -> Res<PageGuard<'_, M>> {
        let page = self.page_explicit_sized(pa, operand, Mode::Exclusive, pt::NDA, level)?;
        if level == 1 {
            let first = page.block.0[0];
            if (0..512).any(|i| self.pamt_entry(first + 16 * i).pt != pt::NDA) {
                return Err(with_op(PAGE_METADATA_INCORRECT, operand));
            }
        }
        Ok(page)
    }

    /// The PAMT entry of a page that was found through a TD's structures.
    pub(crate) fn page_implicit(&self, pa: u64, level: u8) -> Res<u64> {
        let at = match self.pamt_block(pa) {
            Some(b) => b.0[usize::from(level)],
            None => return self.fatal(),
        };
        match self.pamt_entry(at).pt {
            pt::NDA | pt::RSVD => self.fatal(),
            _ => Ok(at),
        }
    }

    /// Locks the PAMT entry of such a page (its own entry only).
    pub(crate) fn page_implicit_lock(
        &self,
        pa: u64,
        level: u8,
        mode: Mode,
        operand: u32,
    ) -> Res<PageGuard<'_, M>> {
        let at = self.page_implicit(pa, level)?;
        self.pamt_take(at, mode).map_err(|e| with_op(e, operand))?;
        let mut block = Block([0; 3]);
        block.0[usize::from(level)] = at;
        Ok(PageGuard {
            m: self,
            block,
            level,
            mode,
            explicit: false,
        })
    }

    /// A shared memory operand: aligned, outside the SEAM range, no private
    /// KeyID.
    pub(crate) fn shared_ok(&self, pa: u64, size: u64) -> bool {
        let (base, len) = self.config.seamrr;
        let addr = pa & !self.config.hkid_mask();
        pa & (size - 1) == 0
            && pa >> self.config.max_pa == 0
            && !(addr < base + len && base < addr + size)
            && self.config.hkid_of(pa) < self.config.first_private_hkid
    }

    /// Splits the PAMT entry of a page at `level` into its 512 children.
    pub(crate) fn pamt_demote(&self, pa: u64, level: u8) -> Res {
        let Some(b) = self.pamt_block(pa) else {
            return self.fatal();
        };
        let (at, first) = (b.0[usize::from(level)], b.0[usize::from(level) - 1]);
        let e = self.pamt_entry(at);
        if e.pt != pt::REG {
            return self.fatal();
        }
        self.pamt_take(at, Mode::Exclusive)?;
        for i in 0..512 {
            self.pamt_set(first + 16 * i, e.pt, Some(e.owner), Some(0));
        }
        self.pamt_set(at, pt::NDA, None, None);
        self.pamt_release(at, Mode::Exclusive);
        Ok(())
    }

    /// Merges the 512 children of the page at `level` into its entry.
    pub(crate) fn pamt_promote(&self, pa: u64, level: u8) -> Res {
        let Some(b) = self.pamt_block(pa) else {
            return self.fatal();
        };
        let (at, first) = (b.0[usize::from(level)], b.0[usize::from(level) - 1]);
        if self.pamt_entry(at).pt != pt::NDA {
            return self.fatal();
        }
        self.pamt_take(at, Mode::Exclusive)?;
        let e = self.pamt_entry(first);
        for i in 0..512 {
            self.pamt_set(first + 16 * i, pt::NDA, None, None);
        }
        self.pamt_set(at, e.pt, Some(e.owner), None);
        self.pamt_release(at, Mode::Exclusive);
        Ok(())
    }
}

/// Whether a BUSY came from a lock (as opposed to another failure).
#[must_use]
pub fn is_busy(status: u64) -> bool {
    crate::status::class(status) == OPERAND_BUSY
}
