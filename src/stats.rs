// SPDX-License-Identifier: GPL-2.0

//! Counters, per file and in total.
//!
//! The totals are shown in debugfs, one number per file, and are not part of the user interface;
//! those of one privmemfd are (`PRIVMEMFD_STAT`).

use crate::{
    backend::tdx::COUNTERS as TDX,
    counter::Counter,
    refusal::Refusal, //
};
use kernel::prelude::*;
use privmemfd_kernel::{
    debugfs::Dir,
    tdx::Leaf, //
};

/// How relocations have ended.
pub(crate) struct Relocations {
    done: Counter,
    refused: [Counter; Refusal::COUNT],
}

impl Relocations {
    pub(crate) const fn new() -> Self {
        Self {
            done: Counter::new(),
            refused: [const { Counter::new() }; Refusal::COUNT],
        }
    }

    /// Counts so many pages.
    pub(crate) fn count(&self, outcome: Result<(), Refusal>, pages: u64) {
        match outcome {
            Ok(()) => self.done.add(pages),
            Err(reason) => self.refused[reason.index()].add(pages),
        }
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.get()
    }

    pub(crate) fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason.index()].get()
    }
}

/// Counters over all files since the module was loaded.
pub(crate) struct Totals {
    pub(crate) files_created: Counter,
    /// Of `files_created`: by `KVM_CREATE_GUEST_MEMFD`.
    pub(crate) files_created_kvm: Counter,
    pub(crate) slots_bound: Counter,
    pub(crate) slots_unbound: Counter,
    /// Pages that failed, see `file::lost`.
    pub(crate) pages_poisoned: Counter,
    pub(crate) relocations: Relocations,
    /// Of those that are done: out of a block that went offline, before mm asked for them.
    pub(crate) relocated_ahead: Counter,
}

/// The one instance.
pub(crate) static TOTALS: Totals = Totals {
    files_created: Counter::new(),
    files_created_kvm: Counter::new(),
    slots_bound: Counter::new(),
    slots_unbound: Counter::new(),
    pages_poisoned: Counter::new(),
    relocations: Relocations::new(),
    relocated_ahead: Counter::new(),
};

/// Shows the totals in debugfs, in `privmemfd/`, until the result is dropped.
pub(crate) fn show() -> Dir {
    // Each file is a function of its own, so there is nothing to loop over.
    macro_rules! files {
        ($($name:literal: $value:expr;)*) => {{
            let dir = Dir::new(c"privmemfd");
            $({
                extern "C" fn read() -> u64 {
                    $value.get()
                }
                dir.number($name, read);
            })*
            dir
        }};
    }

    files! {
        c"files_created": TOTALS.files_created;
        c"files_created_kvm": TOTALS.files_created_kvm;
        c"slots_bound": TOTALS.slots_bound;
        c"slots_unbound": TOTALS.slots_unbound;
        c"pages_poisoned": TOTALS.pages_poisoned;
        c"pages_relocated": TOTALS.relocations.done;
        c"pages_relocated_ahead": TOTALS.relocated_ahead;
        c"refused_pinned": TOTALS.relocations.refused[Refusal::Pinned.index()];
        c"refused_busy": TOTALS.relocations.refused[Refusal::Busy.index()];
        c"refused_guest": TOTALS.relocations.refused[Refusal::Guest.index()];
        c"refused_poison": TOTALS.relocations.refused[Refusal::Poison.index()];
        c"refused_backend": TOTALS.relocations.refused[Refusal::Backend.index()];
        c"refused_nomem": TOTALS.relocations.refused[Refusal::NoMemory.index()];
        c"tdx_relocated": TDX.relocated;
        c"tdx_kicks": TDX.kicks;
        c"tdx_holds": TDX.holds;
        c"tdx_rollbacks": TDX.rollbacks;
        c"tdx_pages_kept": TDX.pages_kept;
        c"tdx_tds_lost": TDX.tds_lost;
        c"tdx_calls_block": TDX.calls(Leaf::MemRangeBlock);
        c"tdx_calls_track": TDX.calls(Leaf::MemTrack);
        c"tdx_calls_relocate": TDX.calls(Leaf::MemPageRelocate);
        c"tdx_calls_unblock": TDX.calls(Leaf::MemRangeUnblock);
        c"tdx_calls_wbinvd": TDX.calls(Leaf::PhymemPageWbinvd);
    }
}
