// SPDX-License-Identifier: GPL-2.0

//! What the backend has done since the module was loaded.

use crate::counter::Counter;
use core::cell::Cell;
use privmemfd_kernel::tdx::Leaf;

/// See the module documentation.
pub(crate) struct Counters {
    /// Pages that the TDX module has moved.
    pub(crate) relocated: Counter,
    /// vCPUs were made to leave the guest.
    pub(crate) kicks: Counter,
    /// They were kept outside as well.
    pub(crate) holds: Counter,
    /// Pages that were given back to the guest where they were.
    pub(crate) rollbacks: Counter,
    /// Pages that could not be taken back from the TDX module when they moved, or were to.
    pub(crate) pages_kept: Counter,
    /// TDs that must not run any more.
    pub(crate) tds_lost: Counter,
    calls: [Counter; LEAVES],
}

/// Number of leaves that [`Counters::calls`] tells apart.
const LEAVES: usize = 5;

impl Counters {
    const fn new() -> Self {
        Self {
            relocated: Counter::new(),
            kicks: Counter::new(),
            holds: Counter::new(),
            rollbacks: Counter::new(),
            pages_kept: Counter::new(),
            tds_lost: Counter::new(),
            calls: [const { Counter::new() }; LEAVES],
        }
    }

    /// SEAMCALLs of one leaf.
    pub(crate) fn calls(&self, leaf: Leaf) -> &Counter {
        &self.calls[nr(leaf)]
    }
}

fn nr(leaf: Leaf) -> usize {
    match leaf {
        Leaf::MemRangeBlock => 0,
        Leaf::MemTrack => 1,
        Leaf::MemPageRelocate => 2,
        Leaf::MemRangeUnblock => 3,
        Leaf::PhymemPageWbinvd => 4,
    }
}

/// SEAMCALLs of one batch: the totals are shared by all CPUs.
#[derive(Default)]
pub(super) struct Calls([Cell<u32>; LEAVES]);

impl Calls {
    pub(super) fn one_more(&self, leaf: Leaf) {
        let calls = &self.0[nr(leaf)];
        calls.set(calls.get().saturating_add(1));
    }

    /// Adds them to the totals.
    pub(super) fn count(&self) {
        for (total, calls) in COUNTERS.calls.iter().zip(&self.0) {
            if calls.get() > 0 {
                total.add(calls.get().into());
            }
        }
    }
}

/// The one instance.
pub(crate) static COUNTERS: Counters = Counters::new();
