// SPDX-License-Identifier: GPL-2.0
//! What must be visible: files, VMs and TDs as plain data, and what each operation
//! does to them. Knows nothing of the kernel.

use std::ops::Range;

/// Files at a time.
pub const FILES: usize = 2;
/// VMs at a time.
pub const VMS: usize = 2;
/// Memslots of a VM.
pub const SLOTS: usize = 2;
/// Most pages of a file.
pub const MOST_PAGES: usize = 48;
/// Pages that a process below a memory cgroup's limit gets at most.
pub const LIMIT_PAGES: usize = 24;

/// What is at an index of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// No memory.
    Absent,
    /// No memory, or memory without content: an allocation ended on the way.
    Maybe,
    /// Memory that no guest has written.
    Zero,
    /// Memory with what operation N has written.
    Filled(u32),
    /// Memory with what only a TD could read, or nobody.
    Opaque,
    /// Memory that has failed.
    Failed,
}

impl Page {
    /// Whether there is memory that can move; `None` if that is open.
    pub fn has_memory(self) -> Option<bool> {
        match self {
            Page::Absent | Page::Failed => Some(false),
            Page::Maybe => None,
            Page::Zero | Page::Filled(_) | Page::Opaque => Some(true),
        }
    }

    fn touched(self) -> Self {
        match self {
            Page::Absent | Page::Maybe => Page::Zero,
            other => other,
        }
    }
}

/// What the TDX module knows of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sept {
    /// Nothing: the TD has not used it.
    Free,
    /// The TD has used it, and not accepted it. It is the TD's all the same.
    Pending,
    /// The TD has accepted it.
    Accepted,
}

/// A TD whose memory a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Td {
    /// What the TDX module knows of each page.
    pub sept: Vec<Sept>,
    /// A page was used that was not accepted, which happens once in a TD.
    pub used_early: bool,
    /// A page could not be taken back from the TDX module.
    pub lost: bool,
}

/// A privmemfd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// What is at each index.
    pub pages: Vec<Page>,
    /// Whether the host may move it.
    pub movable: bool,
    /// Whether the test has a descriptor.
    pub own: bool,
    /// Whether a child has one.
    pub child: bool,
    /// The TD that it is the memory of.
    pub td: Option<Td>,
    /// It was the memory of a lost TD: the TDX module may have kept pages.
    pub spoiled: bool,
}

/// A memslot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Which file.
    pub file: usize,
    /// First page of it.
    pub offset: usize,
    /// What ordinary memory each page has while it is shared.
    pub backing: Vec<Page>,
    /// Whether each page is shared now.
    pub shared: Vec<bool>,
}

impl Slot {
    /// Pages of the file.
    pub fn covers(&self) -> Range<usize> {
        self.offset..self.offset + self.shared.len()
    }
}

/// A VM of type SW_PROTECTED.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vm {
    /// Its memslots.
    pub slots: [Option<Slot>; SLOTS],
}

/// What goes wrong in a move: rules for the emulated TDX module, and for copyfail.ko.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A call that has to be made again: the move succeeds.
    BlockBusy,
    /// The same.
    TrackBusy,
    /// The same.
    RelocateBusy,
    /// The TDX module refuses each page: none moves.
    RelocateRefused,
    /// The TDX module refuses the first page: it stays.
    BlockRefused,
    /// A refused page cannot be given back to the TD, which is lost.
    UnblockRefused,
    /// Memory fails while it is copied (without a TD): the first pages are lost.
    CopyFails,
}

/// So many copies fail.
pub const COPIES: usize = 2;

impl Fault {
    /// Every one.
    pub const OF_TDS: [Fault; 6] = [
        Fault::BlockBusy,
        Fault::TrackBusy,
        Fault::RelocateBusy,
        Fault::RelocateRefused,
        Fault::BlockRefused,
        Fault::UnblockRefused,
    ];
}

/// How an operation must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// It succeeds.
    Ok,
    /// It gives one of these errors.
    Fails(Vec<i32>),
    /// It succeeds or gives one of these errors.
    Either(Vec<i32>),
    /// It moves this many pages.
    Moved(std::ops::RangeInclusive<u64>),
    /// The guest's access ends at this page with this error.
    Fault(usize, i32),
}

/// One operation. Numbers of pages are those of the file for operations on a file,
/// those of the memslot for a guest's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub enum Op {
    Create {
        file: usize,
        pages: usize,
        movable: bool,
        node: Option<u32>,
    },
    Close {
        file: usize,
    },
    Inherit {
        file: usize,
    },
    Reap {
        file: usize,
    },
    Adopt {
        file: usize,
    },
    Allocate {
        file: usize,
        at: Range<usize>,
    },
    AllocateLimited {
        file: usize,
        at: Range<usize>,
    },
    Punch {
        file: usize,
        at: Range<usize>,
    },
    Move {
        file: usize,
        at: Range<usize>,
        node: Option<u32>,
    },
    Compact,
    Soft {
        file: usize,
        page: usize,
    },
    Poison {
        file: usize,
        page: usize,
    },
    Offline {
        file: usize,
        page: usize,
    },
    Online,
    NewVm {
        vm: usize,
    },
    KillVm {
        vm: usize,
    },
    KilledVm {
        file: usize,
        at: Range<usize>,
    },
    Bind {
        vm: usize,
        slot: usize,
        file: usize,
        at: Range<usize>,
    },
    Unbind {
        vm: usize,
        slot: usize,
    },
    Convert {
        vm: usize,
        slot: usize,
        at: Range<usize>,
        shared: bool,
    },
    Prefault {
        vm: usize,
        slot: usize,
        at: Range<usize>,
    },
    Write {
        vm: usize,
        slot: usize,
        at: Range<usize>,
    },
    Verify {
        vm: usize,
        slot: usize,
        at: Range<usize>,
    },
    NewTd {
        file: usize,
    },
    KillTd {
        file: usize,
    },
    Accept {
        file: usize,
        at: Range<usize>,
    },
    Fill {
        file: usize,
        at: Range<usize>,
    },
    Check {
        file: usize,
        at: Range<usize>,
    },
    MoveWithFault {
        file: usize,
        at: Range<usize>,
        fault: Fault,
    },
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Files by number.
    pub files: [Option<File>; FILES],
    /// VMs by number.
    pub vms: [Option<Vm>; VMS],
    /// Number of the last operation; what it writes.
    pub serial: u32,
    /// How the last operation must end.
    pub expect: Expect,
    /// Whether there is a TDX module.
    pub tdx: bool,
    /// Whether a memory block is offline.
    pub offline: bool,
}

impl State {
    /// Nothing exists.
    pub fn new(tdx: bool) -> Self {
        Self {
            files: Default::default(),
            vms: Default::default(),
            serial: 0,
            expect: Expect::Ok,
            tdx,
            offline: false,
        }
    }

    /// Memslots that use a file.
    pub fn slots_of(&self, file: usize) -> impl Iterator<Item = (usize, usize, &Slot)> {
        let all = self.vms.iter().enumerate();
        all.flat_map(move |(v, vm)| {
            let slots = vm.iter().flat_map(|vm| vm.slots.iter().enumerate());
            slots.filter_map(move |(s, slot)| Some((v, s, slot.as_ref()?)))
        })
        .filter(move |(.., slot)| slot.file == file)
    }

    /// The file, with a descriptor of the test's.
    pub fn owned(&self, file: usize) -> Option<&File> {
        self.files[file].as_ref().filter(|f| f.own)
    }

    /// The memslot.
    pub fn slot(&self, vm: usize, slot: usize) -> Option<&Slot> {
        self.vms[vm].as_ref()?.slots[slot].as_ref()
    }

    /// Whether the operation makes sense.
    pub fn allows(&self, op: &Op) -> bool {
        let fits = |file: usize, at: &Range<usize>| {
            let file = self.owned(file);
            file.is_some_and(|f| at.start < at.end && at.end <= f.pages.len())
        };
        let td = |file: usize| self.owned(file).and_then(|f| f.td.as_ref());
        let lost = |file: usize| td(file).is_some_and(|t| t.lost);
        let sound = |file: usize| self.owned(file).is_some_and(|f| !f.spoiled) && !lost(file);
        let usable = |vm: usize, slot: usize, at: &Range<usize>| {
            let slot = self.slot(vm, slot);
            slot.is_some_and(|s| at.start < at.end && at.end <= s.shared.len())
        };
        match op {
            Op::Create { file, pages, .. } => self.files[*file].is_none() && *pages > 0,
            Op::Close { file } => self.owned(*file).is_some(),
            Op::Inherit { file } => self.owned(*file).is_some_and(|f| !f.child),
            Op::Reap { file } => self.files[*file].as_ref().is_some_and(|f| f.child),
            Op::Adopt { file } => self.files[*file]
                .as_ref()
                .is_some_and(|f| f.child && !f.own),
            Op::Allocate { file, at } | Op::AllocateLimited { file, at } => {
                fits(*file, at) && sound(*file)
            }
            Op::Punch { file, at } => fits(*file, at) && sound(*file),
            Op::Move { file, at, .. } => fits(*file, at),
            Op::Compact => true,
            Op::Online => self.offline,
            Op::Offline { file, page } => {
                // mm tries for ever to move what a lost TD has left.
                let stuck = |f: &File| f.spoiled || f.td.as_ref().is_some_and(|t| t.lost);
                let none = !self.files.iter().flatten().any(stuck);
                !self.offline && none && fits(*file, &(*page..page + 1))
            }
            Op::Soft { file, page } | Op::Poison { file, page } => {
                let file = self.owned(*file).filter(|_| sound(*file));
                let page = file.and_then(|f| f.pages.get(*page));
                page.is_some_and(|p| p.has_memory() == Some(true))
            }
            Op::NewVm { vm } => self.vms[*vm].is_none(),
            Op::KillVm { vm } => self.vms[*vm].is_some(),
            Op::KilledVm { file, at } => fits(*file, at) && sound(*file) && td(*file).is_none(),
            Op::Bind { vm, slot, file, at } => {
                let free = self.vms[*vm].is_some() && self.slot(*vm, *slot).is_none();
                free && fits(*file, at) && sound(*file) && td(*file).is_none()
            }
            Op::Unbind { vm, slot } => self.slot(*vm, *slot).is_some(),
            Op::Convert { vm, slot, at, .. }
            | Op::Prefault { vm, slot, at }
            | Op::Write { vm, slot, at }
            | Op::Verify { vm, slot, at } => usable(*vm, *slot, at),
            Op::NewTd { file } => {
                self.tdx
                    && sound(*file)
                    && td(*file).is_none()
                    && self.slots_of(*file).next().is_none()
            }
            Op::KillTd { file } => td(*file).is_some(),
            Op::Accept { file, at } | Op::Fill { file, at } | Op::Check { file, at } => {
                fits(*file, at) && td(*file).is_some()
            }
            Op::MoveWithFault { file, at, fault } => {
                let file = self
                    .owned(*file)
                    .filter(|_| fits(*file, at) && sound(*file));
                // Whether a page that nobody has written is copied is not known here.
                let known = |p: &Page| matches!(p, Page::Absent | Page::Filled(_) | Page::Failed);
                file.is_some_and(|f| {
                    let copies = f.td.is_none() && f.pages[at.clone()].iter().all(known);
                    f.movable
                        && if *fault == Fault::CopyFails {
                            copies
                        } else {
                            f.td.is_some()
                        }
                })
            }
        }
    }

    /// What becomes of it.
    pub fn apply(mut self, op: &Op) -> Self {
        self.serial += 1;
        self.expect = Expect::Ok;
        crate::effect::apply(&mut self, op);
        for file in 0..FILES {
            let used = self.slots_of(file).next().is_some();
            let f = &mut self.files[file];
            if f.as_ref()
                .is_some_and(|f| !f.own && !f.child && f.td.is_none())
                && !used
            {
                *f = None;
            }
        }
        self
    }

    /// The page of a memslot that a guest sees, and whether it is the file's.
    pub fn seen(&self, slot: &Slot, n: usize) -> (Page, bool) {
        if slot.shared[n] {
            return (slot.backing[n], false);
        }
        let file = self.files[slot.file].as_ref();
        (
            file.map_or(Page::Absent, |f| f.pages[slot.offset + n]),
            true,
        )
    }

    /// A guest touches a page; the error that it gets.
    pub(crate) fn touch(&mut self, vm: usize, slot: usize, n: usize, write: bool) -> Option<i32> {
        let serial = self.serial;
        let vm = self.vms[vm].as_mut().expect("allowed");
        let slot = vm.slots[slot].as_mut().expect("allowed");
        let page = if slot.shared[n] {
            &mut slot.backing[n]
        } else {
            let file = self.files[slot.file].as_mut().expect("a bound file lives");
            &mut file.pages[slot.offset + n]
        };
        if *page == Page::Failed {
            return Some(libc::EHWPOISON);
        }
        *page = if write {
            Page::Filled(serial)
        } else {
            page.touched()
        };
        None
    }
}
