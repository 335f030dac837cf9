// SPDX-License-Identifier: GPL-2.0
//! What the guest executes: position-independent code that is copied out of
//! this program, and the control block through which the host steers it.
//!
//! Every 8-byte cell that a guest writes holds half a hash of its place and
//! the number of the round that wrote it. A reader that knows which rounds can
//! be there sees a corrupt cell, a cell of another page and a lost write.

use std::sync::atomic::Ordering::SeqCst;

use vm_memory::{AtomicAccess, MmapRegion, VolatileMemory};

use crate::layout::{CODE, CTL_BASE, CTL_STEP};

std::arch::global_asm!(include_str!("guest.s"));

extern "C" {
    static vmm_guest_start: u8;
    static vmm_guest_read: u8;
    static vmm_guest_write: u8;
    static vmm_guest_count: u8;
    static vmm_guest_leave: u8;
    static vmm_guest_end: u8;
}

/// The guest's code, which runs at [`CODE`].
pub fn code() -> &'static [u8] {
    let start = &raw const vmm_guest_start;
    let len = &raw const vmm_guest_end as usize - start as usize;
    // SAFETY: both symbols bound one piece of read-only data of this program.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// What a vCPU can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Write and verify as the control block says.
    Loop,
    /// Read the cell at the first argument.
    Read,
    /// Write the second argument to the cell at the first.
    Write,
    /// Count cells that are not zero from the first argument up to the second
    /// in steps of the third.
    Count,
    /// Leave the guest and come back (CPUID) until told to stop, and count that as
    /// [`Field::Started`]; the first argument is the address of the control block.
    Leave,
}

impl Entry {
    /// Its guest address.
    pub fn address(self) -> u64 {
        let symbol = match self {
            Entry::Loop => &raw const vmm_guest_start,
            Entry::Read => &raw const vmm_guest_read,
            Entry::Write => &raw const vmm_guest_write,
            Entry::Count => &raw const vmm_guest_count,
            Entry::Leave => &raw const vmm_guest_leave,
        };
        CODE + (symbol as u64 - &raw const vmm_guest_start as u64)
    }
}

/// Write the own part with a new round number, every round.
pub const WRITE: u64 = 1;
/// Verify the parts of all vCPUs, every round.
pub const VERIFY: u64 = 2;
/// Cells may be zero: their memory was taken away or never written.
pub const ALLOW_ZERO: u64 = 4;
/// Stop after one round.
pub const ONCE: u64 = 8;
/// Cells may be of any round: whole pages fall back to zero and are rewritten.
pub const ANY_ROUND: u64 = 16;

const HASH: u64 = 0x9e37_79b9_7f4a_7c15;

/// The cell that `round` writes at byte `place` of the memory.
pub fn cell(place: u64, seed: u64, round: u32) -> u64 {
    (place.wrapping_mul(HASH) ^ seed) & !0xffff_ffff | u64::from(round)
}

/// Fields of a control block; `guest.s` has the same offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Field {
    /// Host: not zero ends the loop.
    Stop = 0x00,
    /// Host: [`WRITE`] and so on.
    Flags = 0x08,
    /// Host: makes the memory of one run differ from that of another.
    Seed = 0x10,
    /// Host: bytes from one cell to the next.
    Stride = 0x18,
    /// Host: first guest address of the own part.
    Start = 0x20,
    /// Host: end of the own part.
    End = 0x28,
    /// Host: control blocks in use.
    Count = 0x30,
    /// Host: guest address of byte 0 of the memory.
    Bias = 0x38,
    /// Guest: last round whose writing began.
    Started = 0x40,
    /// Guest: last round that is written in full.
    Done = 0x48,
    /// Guest: rounds of writing and verifying finished.
    Rounds = 0x50,
    /// Guest: bytes verified.
    Verified = 0x58,
    /// Guest: cells that hold what they must not.
    Mismatches = 0x60,
    /// Guest: cells that were zero.
    Zeros = 0x68,
    /// Guest: address of the first mismatch.
    BadAddress = 0x70,
    /// Guest: what was there.
    BadGot = 0x78,
    /// Guest: what should have been there, with the oldest round allowed.
    BadWant = 0x80,
    /// Guest: bytes written.
    Written = 0x88,
}

/// The control block of one vCPU, in memory that host and guest share.
#[derive(Debug, Clone, Copy)]
pub struct Control<'a> {
    low: &'a MmapRegion,
    base: u64,
}

impl<'a> Control<'a> {
    /// The block of vCPU `id` in low memory.
    pub fn new(low: &'a MmapRegion, id: u64) -> Self {
        Self {
            low,
            base: CTL_BASE + id * CTL_STEP,
        }
    }

    /// Guest address of the block.
    pub fn address(self) -> u64 {
        self.base
    }

    fn atomic(self, field: Field) -> &'a <u64 as AtomicAccess>::A {
        self.low
            .get_atomic_ref(self.base as usize + field as usize)
            .expect("control blocks lie in low memory")
    }

    /// Reads a field.
    pub fn get(self, field: Field) -> u64 {
        self.atomic(field).load(SeqCst)
    }

    /// Writes a field.
    pub fn set(self, field: Field, value: u64) {
        self.atomic(field).store(value, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_holds_every_entry() {
        let end = CODE + code().len() as u64;
        let mut last = None;
        let all = [
            Entry::Loop,
            Entry::Read,
            Entry::Write,
            Entry::Count,
            Entry::Leave,
        ];
        for entry in all {
            let at = entry.address();
            assert!((CODE..end).contains(&at), "{entry:?} at {at:#x}");
            assert!(last < Some(at), "{entry:?} is out of order");
            last = Some(at);
        }
        assert_eq!(Entry::Loop.address(), CODE);
    }

    #[test]
    fn cells_tell_places_rounds_and_seeds_apart() {
        assert_eq!(cell(8, 1, 7) as u32, 7);
        assert_ne!(cell(8, 1, 7) >> 32, cell(16, 1, 7) >> 32);
        assert_ne!(cell(0, 1 << 40, 7) >> 32, cell(0, 2 << 40, 7) >> 32);
    }
}
