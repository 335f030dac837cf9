// SPDX-License-Identifier: GPL-2.0

//! Counters, per file and in total.
//!
//! They only ever rise, are updated without ordering and may be read at any time. The totals are
//! shown in debugfs, one number per file, and are not part of the user interface; those of one
//! privmemfd are (`PRIVMEMFD_STAT`).

use crate::relocate::Refusal;
use kernel::{
    debugfs::Scope,
    fmt,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};
use privmemfd_kernel::tdx::Leaf;

/// A number that rises.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    pub(crate) fn add(&self, n: u64) {
        let _ = self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

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
    pub(crate) tdx: Tdx,
}

/// What the TDX backend has done.
pub(crate) struct Tdx {
    /// Pages of `relocations` that the TDX module has moved.
    pub(crate) relocated: Counter,
    /// vCPUs were made to leave the guest.
    pub(crate) kicks: Counter,
    /// They were kept outside as well.
    pub(crate) holds: Counter,
    /// Pages that were given back to the guest where they were.
    pub(crate) rollbacks: Counter,
    /// Pages that the host can never use again.
    pub(crate) pages_leaked: Counter,
    /// TDs that must not run any more.
    pub(crate) tds_lost: Counter,
    calls: [Counter; LEAVES],
}

/// Number of leaves that [`Tdx::calls`] tells apart.
const LEAVES: usize = 5;

impl Tdx {
    const fn new() -> Self {
        Self {
            relocated: Counter::new(),
            kicks: Counter::new(),
            holds: Counter::new(),
            rollbacks: Counter::new(),
            pages_leaked: Counter::new(),
            tds_lost: Counter::new(),
            calls: [const { Counter::new() }; LEAVES],
        }
    }

    /// SEAMCALLs of one leaf.
    pub(crate) fn calls(&self, leaf: Leaf) -> &Counter {
        &self.calls[match leaf {
            Leaf::MemRangeBlock => 0,
            Leaf::MemTrack => 1,
            Leaf::MemPageRelocate => 2,
            Leaf::MemRangeUnblock => 3,
            Leaf::PhymemPageWbinvd => 4,
        }]
    }
}

/// The one instance.
pub(crate) static TOTALS: Totals = Totals {
    files_created: Counter::new(),
    files_created_kvm: Counter::new(),
    slots_bound: Counter::new(),
    slots_unbound: Counter::new(),
    pages_poisoned: Counter::new(),
    relocations: Relocations::new(),
    tdx: Tdx::new(),
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
        dir.read_callback_file(c"tdx_relocated", totals, &|t: &T, f| {
            line(f, t.tdx.relocated.get())
        });
        dir.read_callback_file(c"tdx_kicks", totals, &|t: &T, f| line(f, t.tdx.kicks.get()));
        dir.read_callback_file(c"tdx_holds", totals, &|t: &T, f| line(f, t.tdx.holds.get()));
        dir.read_callback_file(c"tdx_rollbacks", totals, &|t: &T, f| {
            line(f, t.tdx.rollbacks.get())
        });
        dir.read_callback_file(c"tdx_pages_leaked", totals, &|t: &T, f| {
            line(f, t.tdx.pages_leaked.get())
        });
        dir.read_callback_file(c"tdx_tds_lost", totals, &|t: &T, f| {
            line(f, t.tdx.tds_lost.get())
        });
        dir.read_callback_file(c"tdx_calls_block", totals, &|t: &T, f| {
            line(f, t.tdx.calls(Leaf::MemRangeBlock).get())
        });
        dir.read_callback_file(c"tdx_calls_track", totals, &|t: &T, f| {
            line(f, t.tdx.calls(Leaf::MemTrack).get())
        });
        dir.read_callback_file(c"tdx_calls_relocate", totals, &|t: &T, f| {
            line(f, t.tdx.calls(Leaf::MemPageRelocate).get())
        });
        dir.read_callback_file(c"tdx_calls_unblock", totals, &|t: &T, f| {
            line(f, t.tdx.calls(Leaf::MemRangeUnblock).get())
        });
        dir.read_callback_file(c"tdx_calls_wbinvd", totals, &|t: &T, f| {
            line(f, t.tdx.calls(Leaf::PhymemPageWbinvd).get())
        });
    })
}
