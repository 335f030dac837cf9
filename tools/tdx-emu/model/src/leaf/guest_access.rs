// SPDX-License-Identifier: GPL-2.0
//! Loads and stores of the guest.

use super::guest::{GuestEvent, GuestOutcome, Vcpu};
use crate::mem::{Machine, LINE, PAGE};
use crate::module::{Module, Violation};
use crate::pamt::pt;
use crate::sept;

/// Words of a cache line.
const LINE_WORDS: usize = (LINE / 8) as usize;

impl<M: Machine> Module<M> {
    /// Turns the content of a page into what the TD with `hkid` sees, for a
    /// front end whose guests access memory without the model. Until
    /// [`Module::conceal_page`] nobody else may look at the page.
    ///
    /// # Errors
    /// A line of the page was written by somebody else, or the page is not the
    /// TD's (any more), which a CPU would notice when the owner has written to
    /// it. The page is as it was.
    pub fn reveal_page(&self, hkid: u16, page: u64) -> Result<(), Violation> {
        if self.machine.has_tags() && !self.is_page_of(hkid, page) {
            return Err(self.violated(page));
        }
        for line in (page..page + PAGE).step_by(LINE as usize) {
            self.check_line(hkid, line)?;
        }
        for pa in (page..page + PAGE).step_by(8) {
            self.machine.write(pa, self.rd(hkid, pa));
        }
        Ok(())
    }

    /// Whether a page, of whatever size and type, is one of the TD with `hkid`.
    fn is_page_of(&self, hkid: u16, page: u64) -> bool {
        let Some(block) = self.pamt_block(page) else {
            return false;
        };
        let e = block.0.map(|at| self.pamt_entry(at));
        e.iter()
            .find(|e| !matches!(e.pt, pt::NDA | pt::RSVD))
            .is_some_and(|e| self.td_raw(e.owner).hkid == hkid)
    }

    /// Encrypts a page again, and seals the lines that belong to the TD.
    pub fn conceal_page(&self, hkid: u16, page: u64) {
        for pa in (page..page + PAGE).step_by(8) {
            self.wr(hkid, pa, self.machine.read(pa));
        }
        if !self.machine.has_tags() {
            return;
        }
        for line in (page..page + PAGE).step_by(LINE as usize) {
            if self.machine.tag(line) != 0 {
                self.machine.set_tag(line, self.line_tag(hkid, line));
            }
        }
    }

    /// A load or store of the guest, through the S-EPT and the TD's key.
    pub(super) fn guest_access(&self, v: &Vcpu, gpa: u64, write: Option<u64>) -> GuestOutcome {
        let access = if write.is_some() {
            sept::R | sept::W
        } else {
            sept::R
        };
        let gpa = gpa & !7;
        match self.translate(&v.td, gpa, access) {
            Err(e) => self.died(e),
            Ok(Err(_)) => self.guest_event(
                v.lp,
                GuestEvent::EptViolation {
                    gpa,
                    qual: if write.is_some() { 2 } else { 1 },
                    rip_adv: 0,
                },
            ),
            Ok(Ok(pa)) => self.guest_access_at(v, pa, write),
        }
    }

    fn guest_access_at(&self, v: &Vcpu, pa: u64, write: Option<u64>) -> GuestOutcome {
        let Ok(value) = self.rd_checked(v.td.hkid, pa) else {
            // A machine check: the TD is lost.
            return self.dead_td(v, 0, 0);
        };
        if let Some(new) = write {
            self.wr_sealed(v.td.hkid, pa, new);
        }
        GuestOutcome::InGuest(value)
    }

    /// Where the guest on `lp` would find `gpa` right now, without side
    /// effects: the translation a CPU would cache, and whether it allows
    /// writes.
    pub fn guest_translation(&self, lp: usize, gpa: u64) -> Option<(u64, bool)> {
        let (tdr, _) = self.in_guest(lp)?;
        let td = self.td_raw(tdr);
        let pa = self.translate(&td, gpa, sept::R).ok()?.ok()?;
        let w = matches!(self.translate(&td, gpa, sept::R | sept::W), Ok(Ok(_)));
        Some((pa, w))
    }

    /// Translates an access of the guest, as the CPU does once for all that
    /// it accesses in the page until its translations are flushed.
    ///
    /// # Errors
    /// What becomes of the EPT violation. `rip_adv`: see [`GuestEvent`].
    pub(crate) fn guest_page(
        &self,
        v: &Vcpu,
        gpa: u64,
        write: bool,
        rip_adv: u64,
    ) -> Result<u64, GuestOutcome> {
        let access = if write { sept::R | sept::W } else { sept::R };
        match self.translate(&v.td, gpa, access) {
            Err(e) => Err(self.died(e)),
            Ok(Err(_)) => Err(self.guest_event(
                v.lp,
                GuestEvent::EptViolation {
                    gpa,
                    qual: if write { 2 } else { 1 },
                    rip_adv,
                },
            )),
            Ok(Ok(pa)) => Ok(pa),
        }
    }

    /// Writes `word(offset)` to every word of a page, in whole cache lines.
    pub(crate) fn guest_fill(&self, v: &Vcpu, page: u64, word: impl Fn(u64) -> u64) {
        for line in (0..PAGE).step_by(LINE as usize) {
            for off in (line..line + LINE).step_by(8) {
                self.wr(v.td.hkid, page + off, word(off));
            }
            self.reseal_line(v.td.hkid, page + line);
        }
    }

    /// Compares every word of a page with `word(offset)`: how many differ, and
    /// the offset of the first one.
    pub(crate) fn guest_compare(
        &self,
        v: &Vcpu,
        page: u64,
        word: impl Fn(u64) -> u64,
    ) -> Result<(u64, u64), Violation> {
        let (mut wrong, mut first) = (0, 0);
        for line in (0..PAGE).step_by(LINE as usize) {
            self.check_line(v.td.hkid, page + line)?;
            for i in 0..LINE_WORDS {
                let off = line + 8 * i as u64;
                if self.rd(v.td.hkid, page + off) != word(off) {
                    if wrong == 0 {
                        first = off;
                    }
                    wrong += 1;
                }
            }
        }
        Ok((wrong, first))
    }
}
