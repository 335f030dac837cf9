// SPDX-License-Identifier: GPL-2.0

//! The relocation engine: one transaction per batch of pages.
//!
//! ```text
//! Plan  --quiesce-->  Quiesced  --transfer-->  Quiesced  --commit-->  done
//!   |                    |                        |
//!   +------ refused -----+-------- refused -------+  (undone by drop)
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
//! Nothing here waits for memory or for any other lock but `kvm->mmu_lock`, so all of it may run in
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
    module_parameters,
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
        Origin,
        Quiesced, //
    },
    mm::{
        folio::Locked,
        mapping::Held, //
    },
    trace, //
};

/// Most that [`batch`] can be.
const MOST: usize = 512;

/// Pages that move together. A vCPU that wants one of them waits for the batch, but not for the next
/// (`file::turns`). Set when the module is loaded.
pub(crate) fn batch() -> usize {
    module_parameters::batch.value()
}

/// # Errors
///
/// `EINVAL`: the number that the module was loaded with is none.
pub(crate) fn check_batch() -> Result {
    if (1..=MOST).contains(&batch()) {
        return Ok(());
    }
    pr_err!("batch={} is not from 1 to {MOST}\n", batch());
    Err(EINVAL)
}

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
    fn quiesce<O: Origin>(&self, moves: &mut [Move<'_, O>], held: &impl Held) -> Result;
}

/// Pages that are to move. Nothing has happened yet.
#[must_use = "a plan does nothing until it is carried out"]
pub(crate) struct Plan<'p, 'a, O> {
    moves: &'p mut [Move<'a, O>],
    cause: Cause,
}

impl<'p, 'a, O: Origin> Plan<'p, 'a, O> {
    pub(crate) fn new(moves: &'p mut [Move<'a, O>], cause: Cause) -> Self {
        Self { moves, cause }
    }

    /// Carries the plan out and reports how each page has ended, in the order of the plan.
    pub(crate) fn run(
        self,
        held: &impl Held,
        guests: &impl Guests,
        backend: &impl Backend,
        mut ended: impl FnMut(Page<'a>, Result<(), Refusal>),
    ) {
        let ino = held.mapping().ino();
        let log = Log::begin(ino, self.moves, self.cause);
        match self.quiesce(guests, held) {
            Ok(quiesced) => quiesced.for_each(|page, content| {
                let by = content
                    .as_ref()
                    .ok()
                    .map(|content| moved_by(content, backend));
                let outcome = content
                    .and_then(|content| transfer(content, backend))
                    .and_then(|content| content.commit().map_err(|_| Refusal::Backend));
                log.end(page.index, by, outcome);
                ended(page, outcome);
            }),
            Err(refused) => refused.for_each(|page, reason| {
                log.end(page.index, None, Err(reason));
                ended(page, Err(reason));
            }),
        }
    }

    fn quiesce(
        self,
        guests: &impl Guests,
        held: &impl Held,
    ) -> Result<Batch<'p, 'a, O>, Refused<'p, 'a, O>> {
        match guests.quiesce(self.moves, held) {
            Ok(()) => Ok(Batch(self.moves)),
            Err(e) => Err(Refused(self.moves, guest_refusal(e))),
        }
    }
}

fn moved_by<B: Backend, O: Origin>(page: &Quiesced<'_, O>, _: &B) -> BackendId {
    if page.is_moved() {
        BackendId::Tdx
    } else {
        B::ID
    }
}

/// Brings the content to the new folio, if the hardware has not.
fn transfer<'a, O: Origin>(
    mut page: Quiesced<'a, O>,
    backend: &impl Backend,
) -> Result<Quiesced<'a, O>, Refusal> {
    if !page.is_moved() {
        backend.transfer(&mut page)?;
    }
    Ok(page)
}

fn guest_refusal(e: Error) -> Refusal {
    if e == EAGAIN {
        Refusal::Busy
    } else {
        Refusal::Guest
    }
}

/// A page of a batch.
pub(crate) struct Page<'a> {
    /// Its offset in the file.
    pub(crate) index: usize,
    /// The folio that is to make room.
    pub(crate) src: &'a Locked,
    /// The folio that is to take its place.
    pub(crate) dst: &'a Locked,
}

impl<'a> Page<'a> {
    fn of<O: Origin>(mv: &Move<'a, O>) -> Self {
        let (src, dst) = (mv.src(), mv.dst());
        Self {
            index: src.index(),
            src,
            dst,
        }
    }
}

/// A batch that never left its place.
struct Refused<'p, 'a, O>(&'p mut [Move<'a, O>], Refusal);

impl<'a, O: Origin> Refused<'_, 'a, O> {
    fn for_each(self, mut f: impl FnMut(Page<'a>, Refusal)) {
        for mv in self.0.iter() {
            f(Page::of(mv), self.1);
        }
    }
}

/// A batch whose guests have been dealt with, each page with its own result.
struct Batch<'p, 'a, O>(&'p mut [Move<'a, O>]);

impl<'a, O: Origin> Batch<'_, 'a, O> {
    fn for_each(self, mut f: impl FnMut(Page<'a>, Result<Quiesced<'a, O>, Refusal>)) {
        for mv in self.0.iter_mut() {
            let content = mv.take().map_err(guest_refusal);
            f(Page::of(mv), content);
        }
    }
}

/// Trace events of one batch.
struct Log {
    ino: u64,
    cause: Cause,
    start: Option<Instant<Monotonic>>,
}

impl Log {
    fn begin<O: Origin>(ino: u64, moves: &[Move<'_, O>], cause: Cause) -> Self {
        let start = trace::relocate_enabled().then(Instant::now);
        if start.is_some() {
            for mv in moves {
                let (src, dst) = (mv.src(), mv.dst());
                trace::relocate_begin(ino, src.index(), src.pfn(), dst.pfn(), cause as u32);
            }
        }
        Self { ino, cause, start }
    }

    #[inline]
    fn end(&self, index: usize, by: Option<BackendId>, outcome: Result<(), Refusal>) {
        if let Some(start) = self.start {
            self.tell(start, index, by, outcome);
        }
    }

    #[cold]
    fn tell(
        &self,
        start: Instant<Monotonic>,
        index: usize,
        by: Option<BackendId>,
        outcome: Result<(), Refusal>,
    ) {
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
