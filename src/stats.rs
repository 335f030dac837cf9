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

    fn line(f: &mut fmt::Formatter<'_>, n: u64) -> fmt::Result {
        writeln!(f, "{n}")
    }

    Scope::dir(&TOTALS, c"privmemfd", |totals: &T, dir| {
        dir.read_callback_file(c"files_created", totals, &|t: &T, f| {
            line(f, t.files_created.get())
        });
        dir.read_callback_file(c"files_created_kvm", totals, &|t: &T, f| {
            line(f, t.files_created_kvm.get())
        });
        dir.read_callback_file(c"slots_bound", totals, &|t: &T, f| {
            line(f, t.slots_bound.get())
        });
        dir.read_callback_file(c"slots_unbound", totals, &|t: &T, f| {
            line(f, t.slots_unbound.get())
        });
        dir.read_callback_file(c"pages_poisoned", totals, &|t: &T, f| {
            line(f, t.pages_poisoned.get())
        });
        dir.read_callback_file(c"pages_relocated", totals, &|t: &T, f| {
            line(f, t.relocations.done())
        });
        dir.read_callback_file(c"refused_pinned", totals, &|t: &T, f| {
            line(f, t.relocations.refused(Refusal::Pinned))
        });
        dir.read_callback_file(c"refused_busy", totals, &|t: &T, f| {
            line(f, t.relocations.refused(Refusal::Busy))
        });
        dir.read_callback_file(c"refused_guest", totals, &|t: &T, f| {
            line(f, t.relocations.refused(Refusal::Guest))
        });
        dir.read_callback_file(c"refused_poison", totals, &|t: &T, f| {
            line(f, t.relocations.refused(Refusal::Poison))
        });
        dir.read_callback_file(c"refused_backend", totals, &|t: &T, f| {
            line(f, t.relocations.refused(Refusal::Backend))
        });
        dir.read_callback_file(c"refused_nomem", totals, &|t: &T, f| {
            line(f, t.relocations.refused(Refusal::NoMemory))
        });
        dir.read_callback_file(c"tdx_relocated", totals, &|_: &T, f| {
            line(f, TDX.relocated.get())
        });
        dir.read_callback_file(c"tdx_kicks", totals, &|_: &T, f| line(f, TDX.kicks.get()));
        dir.read_callback_file(c"tdx_holds", totals, &|_: &T, f| line(f, TDX.holds.get()));
        dir.read_callback_file(c"tdx_rollbacks", totals, &|_: &T, f| {
            line(f, TDX.rollbacks.get())
        });
        dir.read_callback_file(c"tdx_pages_leaked", totals, &|_: &T, f| {
            line(f, TDX.pages_leaked.get())
        });
        dir.read_callback_file(c"tdx_tds_lost", totals, &|_: &T, f| {
            line(f, TDX.tds_lost.get())
        });
        dir.read_callback_file(c"tdx_calls_block", totals, &|_: &T, f| {
            line(f, TDX.calls(Leaf::MemRangeBlock).get())
        });
        dir.read_callback_file(c"tdx_calls_track", totals, &|_: &T, f| {
            line(f, TDX.calls(Leaf::MemTrack).get())
        });
        dir.read_callback_file(c"tdx_calls_relocate", totals, &|_: &T, f| {
            line(f, TDX.calls(Leaf::MemPageRelocate).get())
        });
        dir.read_callback_file(c"tdx_calls_unblock", totals, &|_: &T, f| {
            line(f, TDX.calls(Leaf::MemRangeUnblock).get())
        });
        dir.read_callback_file(c"tdx_calls_wbinvd", totals, &|_: &T, f| {
            line(f, TDX.calls(Leaf::PhymemPageWbinvd).get())
        });
    })
}
