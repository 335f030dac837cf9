// SPDX-License-Identifier: GPL-2.0

//! Counters, per file and in total.
//!
//! The totals are shown in debugfs, one number per file, and are not part of the user interface;
//! those of one privmemfd are (`PRIVMEMFD_STAT`).

use crate::{
    backend::tdx::COUNTERS as TDX,
    counter::Counter,
    relocate::Refusal, //
};
use kernel::{
    debugfs::Scope,
    fmt,
    prelude::*, //
};
use privmemfd_kernel::tdx::Leaf;

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

    /// Counts one page.
    pub(crate) fn count(&self, outcome: Result<(), Refusal>) {
        match outcome {
            Ok(()) => self.done.add(1),
            Err(reason) => self.refused[reason.index()].add(1),
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
    /// Pages that failed, see `file::aops`.
    pub(crate) pages_poisoned: Counter,
    pub(crate) relocations: Relocations,
}

/// The one instance.
pub(crate) static TOTALS: Totals = Totals {
    files_created: Counter::new(),
    files_created_kvm: Counter::new(),
    slots_bound: Counter::new(),
    slots_unbound: Counter::new(),
    pages_poisoned: Counter::new(),
    relocations: Relocations::new(),
};

/// Shows the totals in debugfs, in `privmemfd/`.
pub(crate) fn show() -> impl PinInit<Scope<&'static Totals>> {
    type T = &'static Totals;

    // Each file is a function of its own, so there is nothing to loop over.
    macro_rules! files {
        ($totals:ident, $dir:ident; $($name:literal: |$t:tt| $value:expr;)*) => {
            $($dir.read_callback_file($name, $totals, &|$t: &T, f: &mut fmt::Formatter<'_>| {
                writeln!(f, "{}", $value)
            });)*
        };
    }

    Scope::dir(&TOTALS, c"privmemfd", |totals: &T, dir| {
        files! { totals, dir;
            c"files_created": |t| t.files_created.get();
            c"files_created_kvm": |t| t.files_created_kvm.get();
            c"slots_bound": |t| t.slots_bound.get();
            c"slots_unbound": |t| t.slots_unbound.get();
            c"pages_poisoned": |t| t.pages_poisoned.get();
            c"pages_relocated": |t| t.relocations.done();
            c"refused_pinned": |t| t.relocations.refused(Refusal::Pinned);
            c"refused_busy": |t| t.relocations.refused(Refusal::Busy);
            c"refused_guest": |t| t.relocations.refused(Refusal::Guest);
            c"refused_poison": |t| t.relocations.refused(Refusal::Poison);
            c"refused_backend": |t| t.relocations.refused(Refusal::Backend);
            c"refused_nomem": |t| t.relocations.refused(Refusal::NoMemory);
            c"tdx_relocated": |_| TDX.relocated.get();
            c"tdx_kicks": |_| TDX.kicks.get();
            c"tdx_holds": |_| TDX.holds.get();
            c"tdx_rollbacks": |_| TDX.rollbacks.get();
            c"tdx_pages_leaked": |_| TDX.pages_leaked.get();
            c"tdx_tds_lost": |_| TDX.tds_lost.get();
            c"tdx_calls_block": |_| TDX.calls(Leaf::MemRangeBlock).get();
            c"tdx_calls_track": |_| TDX.calls(Leaf::MemTrack).get();
            c"tdx_calls_relocate": |_| TDX.calls(Leaf::MemPageRelocate).get();
            c"tdx_calls_unblock": |_| TDX.calls(Leaf::MemRangeUnblock).get();
            c"tdx_calls_wbinvd": |_| TDX.calls(Leaf::PhymemPageWbinvd).get();
        }
    })
}
