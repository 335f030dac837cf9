// SPDX-License-Identifier: GPL-2.0

//! The privmemfd itself: an object, its pages, and who may do what to them when.
//!
//! # Locks
//!
//! | lock | protects | taken by |
//! |---|---|---|
//! | `invalidate_lock`, exclusive | bindings; pages going away | bind, unbind (KVM); punch hole, release |
//! | `invalidate_lock`, shared | both stay as they are, but for pages that fail | allocate, move; migrate by trylock only; a page that has failed, when it has left |
//! | folio lock | a page's place in the file, its content while it moves | everything that looks a page up |
//!
//! In this order; `kvm->slots_lock` is outside, `kvm->mmu_lock` inside. mm calls
//! [`aops`] with a folio lock held, maybe from direct compaction in a task that holds the
//! `invalidate_lock` of the same file: there it may only be tried, never waited for. Pages go
//! [`CHUNK`](privmemfd_kernel::mm::mapping::CHUNK) by chunk, and KVM unbinds by parts of 4 MiB, so that
//! mm is not refused for long.
//!
//! # Life
//!
//! A memslot holds a reference to the file, the file holds the module. When the last reference
//! goes, no memslot is left, so no guest maps a page: all pages leave the file and are erased.

mod allocate;
mod aops;
mod batch;
mod guests;
mod ioctl;
mod lost;
mod offline;
mod turns;

pub(crate) use allocate::drop_kept;
pub(crate) use lost::start_queue;

use crate::{
    refusal::Refusal,
    stats::{
        Relocations,
        TOTALS, //
    },
    uapi, //
};
use kernel::{
    fs::File,
    prelude::*,
    seq_file::{
        seq_print,
        SeqFile, //
    },
    sync::aref::ARef, //
};
use lost::Lost;
use privmemfd_kernel::{
    fs::private_file::{
        self,
        Attached,
        Fallocate,
        FileTables,
        Migration,
        PrivateFile,
        Residents, //
    },
    mm::{
        folio::{
            Locked,
            LockedFolio, //
        },
        mapping::{
            Mobility,
            Node, //
        }, //
    },
    power::{
        Content,
        HIBERNATION, //
    },
    trace, //
};
use turns::Turns;

/// The file as it is attached to its pages.
pub(crate) type Attachment = Attached<PrivMem>;

/// What a privmemfd is, beside its pages.
#[pin_data]
pub(crate) struct PrivMem {
    mobility: Mobility,
    node: Node,
    relocations: Relocations,
    #[pin]
    lost: Lost,
    turns: Turns,
    /// Until the last page has left the file and been erased.
    _content: Content,
}

static TABLES: FileTables<PrivMem> = FileTables::new();

/// Makes a privmemfd. May sleep. See `PRIVMEMFD_CREATE` for errors.
pub(crate) fn create(size: u64, mobility: Mobility, node: Node) -> Result<ARef<File>> {
    let object = try_pin_init!(PrivMem {
        mobility,
        node,
        relocations: Relocations::new(),
        lost <- Lost::new(),
        turns: Turns::new(),
        _content: HIBERNATION.enter()?,
    });
    let file = private_file::create(c"[privmemfd]", object, size, mobility)?;
    TOTALS.files_created.add(1);
    let nid = match node {
        Node::Any => -1,
        Node::Prefer(nid) | Node::Only(nid) => nid,
    };
    trace::create(
        private_file::ino(&file),
        size,
        uapi::flags_of(mobility),
        nid,
    );
    Ok(file)
}

/// [`get_folio`] for a guest.
pub(crate) fn fault(file: &Attachment, index: usize) -> Result<LockedFolio> {
    file.object().turns.fault();
    get_folio(file, index)
}

/// The folio at page offset `index`, allocated if there is none. May sleep.
///
/// # Errors
///
/// `EHWPOISON`: the memory of the page has failed, or is out of the host's reach. `ENOMEM`.
pub(crate) fn get_folio(file: &Attachment, index: usize) -> Result<LockedFolio> {
    let object = file.object();
    let folio = match file.mapping().lock_folio(index) {
        Some(folio) => folio,
        None if object.lost.get(index).is_some() => return Err(EHWPOISON),
        None => {
            object.lost.make_room(index)?;
            file.mapping()
                .alloc_or_lock_folio(index, object.mobility, object.node)?
        }
    };
    // Also of a new one, whose place another has left as lost meanwhile. A hole has both removed.
    if folio.is_unusable() || object.lost.get(index).is_some() {
        return Err(EHWPOISON);
    }
    Ok(folio)
}

#[vtable]
impl PrivateFile for PrivMem {
    fn tables() -> &'static FileTables<Self> {
        &TABLES
    }

    fn ioctl(file: &Attachment, cmd: u32, arg: usize) -> Result<isize> {
        ioctl::ioctl(file, cmd, arg)
    }

    fn fallocate(file: &Attachment, what: Fallocate, pages: core::ops::Range<usize>) -> Result {
        match what {
            Fallocate::Allocate => allocate::allocate(file, pages),
            Fallocate::PunchHole => allocate::punch_hole(file, pages),
        }
    }

    fn migrate(file: &Attachment, migration: &mut Migration<'_>) -> Result {
        aops::migrate(file, migration)
    }

    fn going_offline(block: &mut Residents<'_, Self>) {
        offline::clear(block);
    }

    fn failed(file: &Attachment, folio: &Locked) {
        aops::failed(file, folio);
    }

    fn unmap_failed(file: &Attachment, index: usize) {
        lost::unmap(file, index);
    }

    fn deferred(file: &Attachment) {
        lost::tell(file, 0..usize::MAX);
    }

    fn show_fdinfo(file: &Attachment, m: &SeqFile) {
        let object = file.object();
        seq_print!(
            m,
            "privmemfd-flags:\t{:#x}\n",
            uapi::flags_of(object.mobility)
        );
        seq_print!(m, "privmemfd-size:\t{}\n", file.mapping().size());
        seq_print!(m, "privmemfd-pages:\t{}\n", file.mapping().nr_pages());
        seq_print!(m, "privmemfd-vms:\t{}\n", file.bindings().vms());
        seq_print!(m, "privmemfd-slots:\t{}\n", file.bindings().slots());
        seq_print!(m, "privmemfd-relocated:\t{}\n", object.relocations.done());
    }
}

impl PrivMem {
    /// Counts how the relocation of so many pages has ended.
    fn count(&self, outcome: Result<(), Refusal>, pages: u64) {
        self.relocations.count(outcome, pages);
        TOTALS.relocations.count(outcome, pages);
    }
}

/// The tables, for KVM to know our files by.
pub(crate) const fn tables() -> &'static FileTables<PrivMem> {
    &TABLES
}
