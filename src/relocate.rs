// SPDX-License-Identifier: GPL-2.0

//! The relocation engine: one transaction per batch of pages.
//!
//! ```text
//! Plan  --quiesce-->  Quiesced  --transfer-->  Moved  --commit-->  done
//!   |                    |                       |
//!   +------ refused -----+-------- refused ------+  (undone by drop)
//! ```
//!
//! Each step consumes the one before. Everything that can fail comes before the content has moved;
//! commit cannot fail. A step that is dropped leaves the page where it was and usable: guests that
//! were kept off fault it in again, and a part of the content that has already reached the new
//! page is erased.
//!
//! # Context
//!
//! The caller holds the file's `invalidate_lock` (shared is enough) and the lock of every folio.
//! Nothing here allocates or waits for any other lock but `kvm->mmu_lock`, so all of it may run in
//! `migrate_folio`, that is, in direct compaction of a task that holds locks of its own.
//!
//! # Races
//!
//! A vCPU that faults on a page of the batch waits for the folio lock, and then finds the new
//! folio in the page cache. One that has looked up the old folio before the batch began finds that
//! its VM's invalidation sequence has changed and tries again (`Guests::quiesce`).

#[cfg(CONFIG_KUNIT = "y")]
mod tests;

use crate::{
    backend::{
        Backend,
        BackendId, //
    },
    refusal::Refusal, //
};
use kernel::{
    prelude::*,
    time::{
        Instant,
        Monotonic, //
    }, //
};
use privmemfd_kernel::{
    kvm::{
        Move,
        Progress, //
    },
    mm::{
        folio::Locked,
        mapping::{
            replace_folio,
            Held,
            Lru, //
        }, //
    },
    trace, //
};

/// Who asks for a relocation; the numbers are those of `privmemfd_causes` in the trace events.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// The mm core: compaction, offlining, contiguous allocation, soft offlining.
    Mm = 0,
    /// `PRIVMEMFD_MOVE`.
    Request = 1,
}

/// Whoever may be using the pages.
pub(crate) trait Guests {
    /// Keeps guests off the old folio of each move, and records how far it has come.
    ///
    /// # Errors
    ///
    /// Nothing has changed for any of them.
    fn quiesce(&self, moves: &mut [Move<'_>], held: &impl Held) -> Result;
}

/// Pages that are to move. Nothing has happened yet.
#[must_use = "a plan does nothing until it is carried out"]
pub(crate) struct Plan<'p, 'a> {
    moves: &'p mut [Move<'a>],
    cause: Cause,
}

impl<'p, 'a> Plan<'p, 'a> {
    pub(crate) fn new(moves: &'p mut [Move<'a>], cause: Cause) -> Self {
        Self { moves, cause }
    }

    /// Carries the plan out and reports how each page has ended, in the order of the plan.
    pub(crate) fn run(
        self,
        held: &impl Held,
        guests: &impl Guests,
        backend: &impl Backend,
        mut ended: impl FnMut(usize, Result<(), Refusal>),
    ) {
        let ino = held.mapping().ino();
        let log = Log::begin(ino, self.moves, self.cause);
        let cause = self.cause;

        match self.quiesce(guests, held) {
            Ok(quiesced) => quiesced.for_each(|nr, page| {
                let by = page.as_ref().ok().map(|page| page.moved_by(backend));
                let outcome = page
                    .and_then(|page| page.transfer(backend))
                    .map(|page| page.commit(held, cause));
                log.end(nr.index, by, outcome);
                ended(nr.position, outcome);
            }),
            Err(refused) => refused.for_each(|nr, reason| {
                log.end(nr.index, None, Err(reason));
                ended(nr.position, Err(reason));
            }),
        }
    }

    fn quiesce(
        self,
        guests: &impl Guests,
        held: &impl Held,
    ) -> Result<Batch<'p, 'a>, Refused<'p, 'a>> {
        match guests.quiesce(self.moves, held) {
            Ok(()) => Ok(Batch(self.moves)),
            Err(e) => Err(Refused(self.moves, guest_refusal(e))),
        }
    }
}

fn guest_refusal(e: Error) -> Refusal {
    if e == EAGAIN {
        Refusal::Busy
    } else {
        Refusal::Guest
    }
}

/// Which page of a batch.
struct PageNr {
    /// In the batch.
    position: usize,
    /// In the file.
    index: usize,
}

/// A batch that never left its place.
struct Refused<'p, 'a>(&'p mut [Move<'a>], Refusal);

impl Refused<'_, '_> {
    fn for_each(self, mut f: impl FnMut(PageNr, Refusal)) {
        for (position, mv) in self.0.iter().enumerate() {
            let index = mv.src().index();
            f(PageNr { position, index }, self.1);
        }
    }
}

/// A batch whose guests have been dealt with, each page with its own result.
struct Batch<'p, 'a>(&'p mut [Move<'a>]);

impl<'a> Batch<'_, 'a> {
    fn for_each(self, mut f: impl FnMut(PageNr, Result<Quiesced<'a>, Refusal>)) {
        for (position, mv) in self.0.iter().enumerate() {
            let page = mv
                .progress()
                .map_err(guest_refusal)
                .map(|progress| Quiesced {
                    src: mv.src(),
                    dst: mv.dst(),
                    progress,
                });
            let index = mv.src().index();
            f(PageNr { position, index }, page);
        }
    }
}

/// A page that guests are kept off. Dropped, it is where it was: guests fault it in again.
#[must_use]
struct Quiesced<'a> {
    src: &'a Locked,
    dst: &'a Locked,
    progress: Progress,
}

impl<'a> Quiesced<'a> {
    fn moved_by<B: Backend>(&self, _: &B) -> BackendId {
        match self.progress {
            Progress::Moved => BackendId::Tdx,
            Progress::Quiesced => B::ID,
        }
    }

    fn transfer(self, backend: &impl Backend) -> Result<Moved<'a>, Refusal> {
        let erase = match self.progress {
            // The hardware has moved it, and erasing would destroy the only copy.
            Progress::Moved => None,
            Progress::Quiesced => {
                let erase = EraseOnDrop(self.dst);
                backend.transfer(self.dst, self.src)?;
                Some(erase)
            }
        };
        Ok(Moved {
            src: self.src,
            dst: self.dst,
            erase,
        })
    }
}

/// A page whose content is at its new place.
#[must_use]
struct Moved<'a> {
    src: &'a Locked,
    dst: &'a Locked,
    erase: Option<EraseOnDrop<'a>>,
}

impl Moved<'_> {
    /// Makes it so. Cannot fail. The old folio leaves the file and is erased by that.
    fn commit(self, held: &impl Held, cause: Cause) {
        let lru = match cause {
            Cause::Mm => Lru::Isolated,
            Cause::Request => Lru::InPlace,
        };
        replace_folio(held, self.src, self.dst, lru);
        if let Some(erase) = self.erase {
            erase.dismiss();
        }
    }
}

/// Erases a new folio that goes back to the allocator after all.
struct EraseOnDrop<'a>(&'a Locked);

impl EraseOnDrop<'_> {
    fn dismiss(self) {
        core::mem::forget(self);
    }
}

impl Drop for EraseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Trace events of one batch.
struct Log {
    ino: u64,
    cause: Cause,
    start: Option<Instant<Monotonic>>,
}

impl Log {
    fn begin(ino: u64, moves: &[Move<'_>], cause: Cause) -> Self {
        let start = trace::relocate_enabled().then(Instant::now);
        if start.is_some() {
            for mv in moves {
                let (src, dst) = (mv.src(), mv.dst());
                trace::relocate_begin(ino, src.index(), src.pfn(), dst.pfn(), cause as u32);
            }
        }
        Self { ino, cause, start }
    }

    fn end(&self, index: usize, by: Option<BackendId>, outcome: Result<(), Refusal>) {
        let Some(start) = self.start else { return };
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(0);
        let result = match outcome {
            Ok(()) => 0,
            Err(reason) => Error::from(reason).to_errno(),
        };
        trace::relocate_end(
            self.ino,
            index,
            self.cause as u32,
            by.map(|backend| backend as u32),
            result,
            outcome.err().map(|reason| reason as u32),
            ns,
        );
    }
}
