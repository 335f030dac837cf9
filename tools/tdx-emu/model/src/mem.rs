// SPDX-License-Identifier: GPL-2.0
//! What the model needs from the machine it runs on: physical memory and a
//! few platform services.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::log::CallRecord;

/// Size of a page.
pub const PAGE: u64 = 4096;
/// Size of a cache line, the unit of memory integrity.
pub const LINE: u64 = 64;

/// Raw access to host physical memory in naturally aligned 64-bit words.
///
/// Addresses carry no KeyID bits. The words are what a bus analyser (or the
/// host, through its own mapping) would see: the model encrypts what belongs
/// to a TD before it writes it (see [`crate::cipher`]).
///
/// The model may call this from several logical processors at once; an
/// implementation for such a machine has to be `Sync` and its [`cas`]
/// sequentially consistent.
///
/// [`cas`]: PhysMem::cas
pub trait PhysMem {
    /// Reads the word at `pa`.
    fn read(&self, pa: u64) -> u64;
    /// Writes the word at `pa`.
    fn write(&self, pa: u64, value: u64);
    /// Replaces the word at `pa` if it equals `old`; the error is the word
    /// found there.
    ///
    /// # Errors
    /// The word was not `old`.
    fn cas(&self, pa: u64, old: u64, new: u64) -> Result<(), u64>;

    /// Whether the machine keeps one integrity tag per cache line (on real
    /// parts: in the ECC bits of the line).
    fn has_tags(&self) -> bool {
        false
    }
    /// The bits of a tag that the machine keeps; bit 0 is one of them.
    fn tag_mask(&self) -> u64 {
        u64::MAX
    }
    /// The tag of the cache line at `line`; 0 = the line is not protected.
    fn tag(&self, line: u64) -> u64 {
        let _ = line;
        0
    }
    /// Sets the tag of the cache line at `line`.
    fn set_tag(&self, line: u64, tag: u64) {
        let _ = (line, tag);
    }
}

/// Services of the platform around the memory.
pub trait Platform {
    /// The time stamp counter of logical processor `lp`.
    fn tsc(&self, lp: usize) -> u64 {
        let _ = lp;
        0
    }
    /// Whether an interrupt is pending at `lp` (the leaves that can be
    /// interrupted ask).
    fn interrupt_pending(&self, lp: usize) -> bool {
        let _ = lp;
        false
    }
    /// Result of programming the key of `hkid`: 0 done, 2 no entropy, 5 busy.
    fn pconfig(&self, lp: usize, hkid: u16) -> u64 {
        let _ = (lp, hkid);
        0
    }
    /// A random number; `None` = the generator is out of entropy.
    fn random(&self) -> Option<u64> {
        Some(0x9E37_79B9_7F4A_7C15)
    }
    /// The cache lines of the page at `pa`, tagged with `hkid`, are written
    /// back and invalidated.
    fn flush_page(&self, pa: u64, hkid: u16) {
        let _ = (pa, hkid);
    }
    /// All translations cached on `lp` for the tables rooted at `eptp` are
    /// invalidated.
    fn invept(&self, lp: usize, eptp: u64) {
        let _ = (lp, eptp);
    }
    /// CPUID of the machine, as `lp` has it now: EAX, EBX, ECX, EDX.
    fn cpuid(&self, lp: usize, leaf: u32, sub: u32) -> [u32; 4] {
        let _ = (lp, leaf, sub);
        [0; 4]
    }
    /// A model-specific register of `lp`, with the guest's value while one runs there;
    /// 0 if there is none.
    fn msr(&self, lp: usize, index: u32) -> u64 {
        let _ = (lp, index);
        0
    }
    /// The compression function of SHA-512 and SHA-384. The default is a stand-in: every
    /// block changes the state, but the digests are none.
    fn sha512_block(&self, state: &mut [u64; 8], block: &[u8; 128]) {
        crate::cipher::mix_block(state, block);
    }
    /// A rule of the fault plan with a callback fired, before the call of
    /// `leaf` is carried out.
    fn fault_callback(&self, lp: usize, leaf: u16, id: u32) {
        let _ = (lp, leaf, id);
    }
    /// A call has ended.
    fn log(&self, record: &CallRecord) {
        let _ = record;
    }
}

/// A machine the model can run on.
pub trait Machine: PhysMem + Platform {}
impl<T: PhysMem + Platform + ?Sized> Machine for T {}

/// A word of the module's own (per-package and per-processor) data.
///
/// Everything the real module keeps in its SEAM range lives in such words, so
/// that the model needs neither a lock of its own nor allocation.
#[derive(Debug, Default)]
pub struct Word(AtomicU64);

impl Clone for Word {
    fn clone(&self) -> Self {
        Word::new(self.get())
    }
}

impl Word {
    /// A word with a value.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Word(AtomicU64::new(value))
    }
    /// Reads it.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    /// Writes it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }
    /// Adds to it (wrapping) and returns the former value.
    pub fn add(&self, value: u64) -> u64 {
        self.0.fetch_add(value, Ordering::SeqCst)
    }
    /// Ors into it and returns the former value.
    pub fn or(&self, value: u64) -> u64 {
        self.0.fetch_or(value, Ordering::SeqCst)
    }
    /// Ands into it and returns the former value.
    pub fn and(&self, value: u64) -> u64 {
        self.0.fetch_and(value, Ordering::SeqCst)
    }
    /// Applies a lock transition to the low 16 bits.
    pub fn step<T>(&self, f: impl Fn(u16) -> (u16, T)) -> T {
        let mut old = self.get();
        loop {
            let (new, out) = f(old as u16);
            match self.0.compare_exchange_weak(
                old,
                old & !0xFFFF | u64::from(new),
                Ordering::SeqCst,
                Ordering::SeqCst,
            ) {
                Ok(_) => return out,
                Err(now) => old = now,
            }
        }
    }
}
