// SPDX-License-Identifier: GPL-2.0

//! What was called, how often, how it ended and how long it took.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};
use kernel::fmt;
use tdx_emu_model::{
    program::{
        command,
        Work, //
    },
    regs::{
        leaf,
        leaf_name, //
    },
    status::{
        self,
        EXIT_REASON_EPT_VIOLATION,
        EXIT_REASON_INTERRUPT,
        EXIT_REASON_TDCALL, //
    }, //
};

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With this in RAX.
    Status(u64),
    /// VMfailInvalid.
    NoModule,
}

/// In place of a status; the module has none with these bits.
const NO_MODULE: u64 = 0xfe << 40;
/// In place of a status: an entry of the table that is free.
const UNUSED: u64 = u64::MAX;
/// Different statuses of one leaf that are told apart.
const STATUSES: usize = 24;
/// Leaves with a number below this are told apart.
const LEAVES: usize = 64;

pub(crate) struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn clear(&self) {
        self.0.store(0, Relaxed);
    }
}

struct Leaf {
    calls: Counter,
    cycles: Counter,
    by_status: [(AtomicU64, Counter); STATUSES],
    /// Those that `by_status` has no room for.
    rest: Counter,
}

impl Leaf {
    const fn new() -> Self {
        Self {
            calls: Counter::new(),
            cycles: Counter::new(),
            by_status: [const { (AtomicU64::new(UNUSED), Counter::new()) }; STATUSES],
            rest: Counter::new(),
        }
    }

    fn count(&self, end: End, cycles: u64) {
        let key = match end {
            End::Status(status) => status,
            End::NoModule => NO_MODULE,
        };
        self.calls.add(1);
        self.cycles.add(cycles);
        for (at, n) in &self.by_status {
            let found = match at.load(Relaxed) {
                UNUSED => match at.compare_exchange(UNUSED, key, Relaxed, Relaxed) {
                    Ok(_) => key,
                    Err(other) => other,
                },
                other => other,
            };
            if found == key {
                n.add(1);
                return;
            }
        }
        self.rest.add(1);
    }

    fn clear(&self) {
        for c in [&self.calls, &self.cycles, &self.rest] {
            c.clear();
        }
        for (_, n) in &self.by_status {
            n.clear();
        }
    }
}

/// A leaf's name in the files here.
pub(crate) struct LeafName(pub(crate) u16);

impl core::fmt::Display for LeafName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match leaf_name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "LEAF{}", self.0),
        }
    }
}

/// A status's name in the files here: that of its class and, if there are any, its details.
struct StatusName(u16, u64);

impl core::fmt::Display for StatusName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let &Self(leaf_no, status) = self;
        let details = status & 0xffff_ffff;
        if status == NO_MODULE {
            return f.write_str("VMFAILINVALID");
        }
        if leaf_no == leaf::VP_ENTER && status == details {
            return write!(f, "EXIT_{details}");
        }
        match status::name(status) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "{:#x}", status >> 32)?,
        }
        if details != 0 {
            write!(f, "|{details:#x}")?;
        }
        Ok(())
    }
}

/// The guest's side.
pub(crate) struct Guest {
    pub(crate) entries: Counter,
    exits_interrupt: Counter,
    exits_violation: Counter,
    exits_vmcall: Counter,
    exits_other: Counter,
    cycles: Counter,
    /// Pages by command.
    pages: [Counter; 8],
    wrong: Counter,
}

/// All counters.
pub(crate) struct Counters {
    leaves: [Leaf; LEAVES],
    other_leaves: Leaf,
    /// Calls for the P-SEAMLDR.
    pub(crate) seamldr: Counter,
    pub(crate) guest: Guest,
}

/// The one instance.
pub(crate) static COUNTERS: Counters = Counters {
    leaves: [const { Leaf::new() }; LEAVES],
    other_leaves: Leaf::new(),
    seamldr: Counter::new(),
    guest: Guest {
        entries: Counter::new(),
        exits_interrupt: Counter::new(),
        exits_violation: Counter::new(),
        exits_vmcall: Counter::new(),
        exits_other: Counter::new(),
        cycles: Counter::new(),
        pages: [const { Counter::new() }; 8],
        wrong: Counter::new(),
    },
};

impl Counters {
    /// Counts a call that took `cycles` of the TSC.
    pub(crate) fn count(&self, leaf_no: u16, end: End, cycles: u64) {
        self.leaves
            .get(usize::from(leaf_no))
            .unwrap_or(&self.other_leaves)
            .count(end, cycles);
    }

    pub(crate) fn clear(&self) {
        for l in &self.leaves {
            l.clear();
        }
        self.other_leaves.clear();
        self.seamldr.clear();
    }

    /// Lines `LEAF WHAT COUNT`: `calls`, `cycles`, and how often each status came.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, l) in self.leaves.iter().enumerate() {
            let no = n as u16;
            Self::show_leaf(f, l, &LeafName(no), |key| StatusName(no, key))?;
        }
        let other = "LEAF_OTHER";
        Self::show_leaf(f, &self.other_leaves, &other, |key| {
            StatusName(u16::MAX, key)
        })?;
        match self.seamldr.get() {
            0 => Ok(()),
            n => writeln!(f, "P-SEAMLDR calls {n}\nP-SEAMLDR VMFAILINVALID {n}"),
        }
    }

    fn show_leaf(
        f: &mut fmt::Formatter<'_>,
        l: &Leaf,
        name: &dyn core::fmt::Display,
        status_name: impl Fn(u64) -> StatusName,
    ) -> fmt::Result {
        if l.calls.get() == 0 {
            return Ok(());
        }
        writeln!(f, "{name} calls {}", l.calls.get())?;
        writeln!(f, "{name} cycles {}", l.cycles.get())?;
        for (key, n) in &l.by_status {
            if n.get() != 0 {
                writeln!(f, "{name} {} {}", status_name(key.load(Relaxed)), n.get())?;
            }
        }
        match l.rest.get() {
            0 => Ok(()),
            n => writeln!(f, "{name} other {n}"),
        }
    }
}

impl Guest {
    /// Counts a stay in the guest.
    pub(crate) fn count(&self, end: End, work: &Work, cycles: u64) {
        match end {
            End::Status(EXIT_REASON_INTERRUPT) => self.exits_interrupt.add(1),
            End::Status(EXIT_REASON_EPT_VIOLATION) => self.exits_violation.add(1),
            End::Status(EXIT_REASON_TDCALL) => self.exits_vmcall.add(1),
            _ => self.exits_other.add(1),
        }
        self.cycles.add(cycles);
        self.wrong.add(work.wrong);
        if let Some(pages) = self.pages.get(work.command as usize) {
            pages.add(work.pages);
        }
    }

    fn all(&self) -> [(&'static str, &Counter); 12] {
        let pages = |command: u64| &self.pages[command as usize & 7];
        [
            ("entries", &self.entries),
            ("exits_interrupt", &self.exits_interrupt),
            ("exits_ept_violation", &self.exits_violation),
            ("exits_vmcall", &self.exits_vmcall),
            ("exits_other", &self.exits_other),
            ("cycles", &self.cycles),
            ("pages_accepted", pages(command::ACCEPT)),
            ("pages_filled", pages(command::FILL)),
            ("pages_verified", pages(command::VERIFY)),
            ("pages_touched", pages(command::TOUCH)),
            ("pages_stamped", pages(command::STAMP)),
            ("mismatches", &self.wrong),
        ]
    }

    pub(crate) fn clear(&self) {
        for (_, c) in self.all() {
            c.clear();
        }
    }

    /// Lines `NAME COUNT`.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, c) in self.all() {
            writeln!(f, "{name} {}", c.get())?;
        }
        Ok(())
    }
}
