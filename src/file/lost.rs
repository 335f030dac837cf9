// SPDX-License-Identifier: GPL-2.0

//! What has become of pages that are lost: their memory has failed, or a TD keeps it.
//!
//! Such a page leaves the file, so that nobody comes across its memory any more, whatever happens
//! to it. The index remembers: until somebody makes a hole there, access is `EHWPOISON`, and no
//! other page takes the place of one whose content is gone.
//!
//! Where a page gets lost nothing can be allocated. So the room for the mark of every page is made
//! when the page is ([`Lost::make_room`]), for a whole [`Chunk`] at a time.

use super::{
    guests::keep_guests_off,
    Attachment, //
};
use crate::{
    refusal::Refusal,
    stats::TOTALS, //
};
use core::ops::Range;
use kernel::{
    maple_tree::InsertErrorKind,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    }, //
};
use privmemfd_kernel::{
    maple_tree::SharedTree,
    mm::{
        cond_resched,
        folio::Locked,
        mapping::Held,
        Failing, //
    },
    workqueue::{
        ModuleQueue,
        Started, //
    }, //
};

/// For what cannot be done where a page is found to be lost.
static QUEUE: ModuleQueue = ModuleQueue::new();

/// Makes the queue ready, for as long as the result lives.
pub(crate) fn start_queue() -> Result<Started> {
    QUEUE.start(c"privmemfd")
}

/// Pages whose marks lie together, almost 2 MiB of memory: a [`Chunk`] takes 1 KiB.
const CHUNK: usize = 504;

/// Why a page is lost.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Loss {
    /// Reading it has failed; it is still in the file, and mm is to be told.
    Suspect { nid: u16 },
    /// Its memory has failed. It was on this node.
    Failed { nid: u16 },
    /// A lost TD has it, until its memslots go.
    Kept,
}

/// An `Option<Loss>` in 16 bits.
#[derive(Copy, Clone, PartialEq, Eq)]
struct Mark(u16);

impl Mark {
    const NONE: Self = Self(0);
    const KEPT: u16 = 1 << 15;
    const SUSPECT: u16 = 1 << 14;
    const FAILED: u16 = 1 << 13;
    const NID: u16 = Self::FAILED - 1;

    fn get(self) -> Option<Loss> {
        let nid = self.0 & Self::NID;
        match self.0 & !Self::NID {
            Self::KEPT => Some(Loss::Kept),
            Self::SUSPECT => Some(Loss::Suspect { nid }),
            Self::FAILED => Some(Loss::Failed { nid }),
            _ => None,
        }
    }
}

impl From<Loss> for Mark {
    fn from(loss: Loss) -> Self {
        Self(match loss {
            Loss::Kept => Self::KEPT,
            Loss::Suspect { nid } => Self::SUSPECT | (nid & Self::NID),
            Loss::Failed { nid } => Self::FAILED | (nid & Self::NID),
        })
    }
}

/// Marks of [`CHUNK`] pages.
struct Chunk {
    /// Offset of the first.
    start: usize,
    /// How many are set.
    set: usize,
    marks: [Mark; CHUNK],
}

const _: () = assert!(size_of::<Chunk>() == 1024);

/// The marks of a file.
#[pin_data]
pub(super) struct Lost {
    /// By `index / CHUNK`. Once there, a chunk stays.
    #[pin]
    chunks: SharedTree<KBox<Chunk>>,
    /// Marks in all chunks. Changes under the lock of `chunks`; read without, by whoever is ordered
    /// with the change by the lock of a folio or of the page cache.
    set: Atomic<usize>,
    /// The index of some chunk that is there; [`Lost::NO_KEY`] if none is known. Pages mostly come side by
    /// side.
    roomy: Atomic<usize>,
}

impl Lost {
    /// No index of a page by [`CHUNK`].
    const NO_KEY: usize = usize::MAX;

    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            chunks <- SharedTree::new(),
            set: Atomic::new(0),
            roomy: Atomic::new(Self::NO_KEY),
        })
    }

    /// Makes sure that the page at `index` can be marked. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn make_room(&self, index: usize) -> Result {
        let key = index / CHUNK;
        if self.roomy.load(Acquire) == key {
            return Ok(());
        }
        if self.chunks.lock().load(key).is_none() {
            self.add_chunk(key)?;
        }
        self.roomy.store(key, Release);
        Ok(())
    }

    fn add_chunk(&self, key: usize) -> Result {
        let chunk = KBox::new(
            Chunk {
                start: key * CHUNK,
                set: 0,
                marks: [Mark::NONE; CHUNK],
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        match self.chunks.insert(key, chunk, GFP_KERNEL_ACCOUNT) {
            Err(e) if e.cause != InsertErrorKind::Occupied => Err(e.into()),
            // Somebody else was faster, or this was.
            _ => Ok(()),
        }
    }

    /// Marks the page at `index`, which the file has or has had since [`Lost::make_room`].
    ///
    /// The caller has the folio's lock; when the folio leaves the file it is marked already.
    pub(super) fn mark(&self, index: usize, loss: Loss) {
        let mut chunks = self.chunks.lock();
        let Some(chunk) = chunks.load(index / CHUNK) else {
            pr_err!("no room to remember that page {index} of a file is lost\n");
            return;
        };
        let old = core::mem::replace(&mut chunk.marks[index % CHUNK], loss.into());
        if old == Mark::NONE {
            chunk.set += 1;
            self.set.store(self.set.load(Relaxed) + 1, Relaxed);
        }
    }

    /// Whether the page at `index` is lost, and why.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<Loss> {
        if self.set.load(Relaxed) == 0 {
            None
        } else {
            self.find(index)
        }
    }

    fn find(&self, index: usize) -> Option<Loss> {
        self.chunks.lock().load(index / CHUNK)?.marks[index % CHUNK].get()
    }

    /// Forgets the marks in `pages` that `forget` says. May sleep.
    ///
    /// Nothing of the pages is left: the `invalidate_lock` is held exclusive.
    pub(super) fn clear(&self, pages: Range<usize>, forget: impl Fn(Loss) -> bool) {
        self.for_each(pages, |_, loss| !forget(loss));
    }

    fn first_suspect(&self, pages: Range<usize>) -> Option<usize> {
        let mut first = None;
        self.for_each(pages, |index, loss| {
            if first.is_none() && matches!(loss, Loss::Suspect { .. }) {
                first = Some(index);
            }
            true
        });
        first
    }

    /// Forgets what TDs keep in `pages`, whose memslots are about to go.
    pub(super) fn unbound(&self, pages: Range<usize>) {
        self.clear(pages, |loss| loss == Loss::Kept);
    }

    /// Calls `f` with each lost page in `pages`; the mark is taken away if it returns false. Must
    /// not sleep itself. May sleep in between.
    pub(super) fn for_each(&self, pages: Range<usize>, mut f: impl FnMut(usize, Loss) -> bool) {
        let mut next = pages.start;
        while next < pages.end && self.set.load(Relaxed) != 0 {
            let last = (pages.end - 1) / CHUNK;
            {
                let mut chunks = self.chunks.lock();
                let mut found = chunks.ma_state(next / CHUNK, last);
                let Some(chunk) = found.find(last) else {
                    return;
                };
                let before = chunk.set;
                let end = chunk.start + CHUNK;
                if before != 0 {
                    for index in next.max(chunk.start)..pages.end.min(end) {
                        let mark = &mut chunk.marks[index - chunk.start];
                        if mark.get().is_some_and(|loss| !f(index, loss)) {
                            *mark = Mark::NONE;
                            chunk.set -= 1;
                        }
                    }
                }
                let cleared = before - chunk.set;
                self.set.store(self.set.load(Relaxed) - cleared, Relaxed);
                next = end;
            }
            cond_resched();
        }
    }
}

fn nid(folio: &Locked) -> u16 {
    u16::try_from(folio.nid()).unwrap_or(u16::MAX)
}

/// `folio` is about to leave the file.
pub(super) fn fail(file: &Attachment, folio: &Locked) {
    let loss = if folio.is_kept() {
        Loss::Kept
    } else {
        TOTALS.pages_poisoned.add(1);
        Loss::Failed { nid: nid(folio) }
    };
    file.object().lost.mark(folio.index(), loss);
}

/// The move of `src` has ended; it still has its lock.
pub(super) fn settle(file: &Attachment, src: &Locked, outcome: Result<(), Refusal>) {
    match outcome {
        Ok(()) => {}
        Err(_) if src.is_kept() => leave(file, src),
        // Nobody uses it any more, and mm is told soon: it wants to see the folio where mm has it,
        // unlocked and on its list.
        Err(Refusal::Poison) => {
            let loss = Loss::Suspect { nid: nid(src) };
            file.object().lost.mark(src.index(), loss);
            file.defer(&QUEUE);
        }
        Err(_) => {}
    }
}

/// mm wants `src` to move, which is lost and still in the file.
///
/// memory_failure() has met it off its list. Or it is suspect and mm does not wait until it has been
/// told: while a memory block goes offline, which does not end before the page has gone,
/// memory_failure() waits for the end of that.
pub(super) fn give_up(file: &Attachment, src: &Locked, held: &impl Held) {
    let index = src.index();
    if file.object().lost.get(index).is_some() {
        src.set_failed();
    }
    drop(keep_guests_off(file, index..index + 1, held));
    leave(file, src);
}

fn leave(file: &Attachment, folio: &Locked) {
    fail(file, folio);
    if let Err(e) = file.mapping().expel(folio) {
        pr_err!("lost page {} stays in its file: {e:?}\n", folio.index());
    }
}

/// Tells mm of the pages in a range that could not be copied. May sleep: waits for mm.
pub(super) fn tell(file: &Attachment, mut pages: Range<usize>) {
    let lost = &file.object().lost;
    while let Some(index) = lost.first_suspect(pages.clone()) {
        pages.start = index + 1;
        if tell_of(file, index).is_some() {
            unmap(file, index);
        }
    }
}

/// Pages in a range that could not be copied are about to be truncated, and mm, which was told of others
/// already, has not been told of them: nobody gets them. The lock is held exclusive, and guests are off.
pub(super) fn give_up_suspects(file: &Attachment, mut pages: Range<usize>) {
    let lost = &file.object().lost;
    while let Some(index) = lost.first_suspect(pages.clone()) {
        pages.start = index + 1;
        if let Some(folio) = file.mapping().lock_folio(index) {
            folio.set_failed();
            leave(file, &folio);
        }
    }
}

/// Tells mm of the page at `index`; `None` if that has left the file by itself.
fn tell_of(file: &Attachment, index: usize) -> Option<()> {
    // Also for the second folio, which is marked by then, and until it is let go.
    let failing = Failing::begin();
    let pfn = file.mapping().lock_folio(index)?.pfn();
    // If mm has the folio on its list, this takes it out of the file; if not, it marks it.
    let _ = failing.memory_failure(pfn);
    let folio = file.mapping().lock_folio(index)?;
    (folio.pfn() == pfn && folio.is_unusable() && file.object().lost.get(index).is_some())
        .then(|| leave(file, &folio))
}

/// Unmaps what was lost at `index` in every VM. The next access of a guest reaches the VMM as
/// `KVM_EXIT_MEMORY_FAULT` with `EHWPOISON`; punching a hole gives new memory.
pub(super) fn unmap(file: &Attachment, index: usize) {
    let held = file.mapping().lock_shared();
    // Who has punched a hole meanwhile has unmapped it; what is there now is another page, and a
    // TD would lose its content.
    if file.object().lost.get(index).is_some() {
        drop(keep_guests_off(file, index..index + 1, &held));
    }
}
