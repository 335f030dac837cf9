// SPDX-License-Identifier: GPL-2.0

//! A vCPU that has met a batch goes on before the next one begins.
//!
//! A vCPU that wants a page of a batch waits for the folio's lock, one that wants another page for
//! `kvm->mmu_lock`, while the batch has that. Either is over with the batch, but not the fault: the
//! vCPU has to wake up, mostly to look the page up again, since KVM maps nothing if there was any
//! invalidation meanwhile, and to take `mmu_lock`. If the next batch has its locks by then, the vCPU
//! waits for that as well. So the next batch of the file waits for [`TURN`] after one during which a
//! guest has faulted.
//!
//! This bounds what a vCPU waits because of one thread that moves pages; each further thread that
//! moves pages of the same VM may add a batch.

use crate::counter::Counter;
use kernel::{
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// For how long vCPUs have the file to themselves. A fault of a TD takes 8 us (`Documentation/cost.rst`),
/// waking up included.
const TURN: Delta = Delta::from_micros(50);

/// The turns of a file. Nothing here orders anything else.
pub(super) struct Turns {
    /// Zero of `next`.
    born: Instant<Monotonic>,
    /// Faults of guests.
    faults: Counter,
    /// As many had begun when the last batch was over.
    known: Atomic<u64>,
    /// When the next batch may begin, in ns.
    next: Atomic<i64>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            faults: Counter::new(),
            known: Atomic::new(0),
            next: Atomic::new(0),
        }
    }

    /// A guest wants a page, and may have to wait from now on.
    pub(super) fn fault(&self) {
        self.faults.add(1);
    }

    /// A batch wants to begin. May sleep; the caller holds no lock that a fault takes.
    pub(super) fn wait(&self) {
        let next = self.next.load(Relaxed);
        if next != 0 {
            let left = Delta::from_nanos(next - self.born.elapsed().as_nanos());
            if !left.is_negative() {
                // One turn at most, whatever others do meanwhile.
                fsleep(left.min(TURN));
            }
        }
    }

    /// A batch is over: its locks are free.
    pub(super) fn over(&self) {
        let faults = self.faults.get();
        let next = if self.known.xchg(faults, Relaxed) == faults {
            0
        } else {
            (self.born.elapsed() + TURN).as_nanos()
        };
        // Of several batches, the last one says it: a bound for one thread.
        self.next.store(next, Relaxed);
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(privmemfd_turns)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_waits_after_one_with_a_fault_and_only_then() {
        let turns = Turns::new();
        let is_owed = || turns.next.load(Relaxed) != 0;
        turns.over();
        assert!(!is_owed());
        turns.fault();
        assert!(!is_owed());
        turns.over();
        assert!(is_owed());
        turns.wait();
        assert!(turns.born.elapsed().as_nanos() >= turns.next.load(Relaxed));
        turns.over();
        assert!(!is_owed());
    }
}
