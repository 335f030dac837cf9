// SPDX-License-Identifier: GPL-2.0

//! How pages of a TD are moved: the order of calls, and what to do when one fails.
//!
//! ```text
//! running TD:   RANGE.BLOCK (each page)  MEM.TRACK  kick vCPUs  PAGE.RELOCATE (each page)
//! before that:                                                  PAGE.RELOCATE (each page)
//! then:         PHYMEM.PAGE.WBINVD (each old page)
//! ```
//!
//! One TRACK and one kick serve any number of pages. A vCPU may enter again right after the kick:
//! it finds the pages blocked, and its next translations are of the new epoch.
//!
//! # When a call fails
//!
//! A failed call has changed nothing. Contention is met by patience: first with vCPUs running,
//! then with all of them held outside, when only other calls of the host can be in the way. A call
//! that still fails is given up, and its page taken back to where it was by RANGE.UNBLOCK. If that
//! fails too the guest can never use the page again, and the TD is lost. Every loop has a bound.
//!
//! PAGE.RELOCATE is the point of no return. What comes after it can only end in a clean old page,
//! or in one that the host must not touch before the TD is destroyed.
//!
//! # Context
//!
//! Nobody else changes the S-EPT meanwhile. Neither sleeps nor allocates.
//!
//! Source: Intel TDX Module 1.5 Base Architecture Specification, "Physical Page Relocation" and
//! "TLB Tracking". Free of kernel code: the host's tests compile this file too, and run it
//! against the model of the TDX module.

use super::status::{
    Answer,
    Verdict, //
};
use core::cell::Cell;

/// The TDX module and the vCPUs of one TD, and the pages of it that are to move.
pub(crate) trait Td {
    /// TDH.MEM.RANGE.BLOCK of page `nr`.
    fn block(&self, nr: usize) -> Answer;
    /// TDH.MEM.TRACK.
    fn track(&self) -> Answer;
    /// TDH.MEM.PAGE.RELOCATE of page `nr`.
    fn relocate(&self, nr: usize) -> Answer;
    /// TDH.MEM.RANGE.UNBLOCK of page `nr`.
    fn unblock(&self, nr: usize) -> Answer;
    /// TDH.PHYMEM.PAGE.WBINVD of the place that page `nr` has left.
    fn wbinvd(&self, nr: usize) -> Answer;
    /// Host physical address of page `nr` before the move.
    fn old_page(&self, nr: usize) -> u64;
    /// Makes every vCPU leave the guest; they may enter again.
    fn kick(&self);
    /// Makes every vCPU leave the guest, and keeps all of them outside.
    fn hold(&self);
    /// Ends [`Td::hold`].
    fn release(&self);
}

/// How the move of one page has ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// The TD uses the new page, the old one is the host's.
    Moved,
    /// The TD uses the new page, and the old one is the host's, but caches may hold lines of it.
    MovedUnclean,
    /// The TD uses some new page. The old one may still be the TD's.
    MovedElse,
    /// The TD uses the old page. Trying again may help.
    Contended,
    /// The TD uses the old page, and will.
    Refused,
    /// The TD has the old page and cannot use it, and nobody can take it back. The TD is lost.
    Stuck,
}

/// Why the TD can no longer run.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum TdLost {
    /// The TDX module has stopped it or is gone, or a page of it stays blocked.
    Dead,
    /// The TDX module has done something else than was asked for.
    Broken,
}

/// Most pages at once.
pub(crate) const BATCH: usize = 32;
/// Tries of a contended call while vCPUs run. Then they are held.
const TRIES: u32 = 4;
/// Tries while they are held, over all calls of a batch. With no vCPU in the guest nobody is in the
/// way of KVM's own calls of this kind, which try once; here it may be a call of the host about the
/// new page or its neighbours, for as long as that call lasts.
const TRIES_HELD: u32 = 8;
/// The same for RANGE.UNBLOCK, where giving up costs the TD. Some 100 us.
const TRIES_HELD_LAST: u32 = 64;
/// Times that a missing step is made up for.
const REPAIRS: u32 = 3;

/// Moves pages 0 to `outcomes.len() - 1`, [`BATCH`] at most. What the outcomes were before does not
/// matter.
///
/// `runnable`: vCPUs of the TD may be in the guest.
///
/// # Errors
///
/// [`TdLost`]; the outcomes hold nonetheless.
pub(crate) fn relocate(
    td: &impl Td,
    runnable: bool,
    outcomes: &mut [Outcome],
) -> Result<(), TdLost> {
    let session = Session::new(td);
    if runnable {
        session.relocate_tracked(outcomes);
    } else {
        session.relocate_untracked(outcomes);
    }
    for (nr, outcome) in outcomes.iter_mut().enumerate() {
        if *outcome == Outcome::Moved && session.settle(|| td.wbinvd(nr)).0 != Verdict::Done {
            *outcome = Outcome::MovedUnclean;
        }
    }
    session.lost.get().map_or(Ok(()), Err)
}

/// Proof that TLB tracking is complete for every page that was blocked before.
struct Tracked;

/// A page that is blocked. It ends in [`Session::relocate_blocked`] or [`Session::unblock`].
#[must_use = "the guest cannot use a page that stays blocked"]
struct Blocked(usize);

/// One batch. Dropped, it lets the vCPUs go that it has held.
struct Session<'a, T: Td> {
    td: &'a T,
    held: Cell<bool>,
    lost: Cell<Option<TdLost>>,
    /// What is left of [`TRIES_HELD`].
    patience: Cell<u32>,
    /// What is left of [`TRIES_HELD_LAST`].
    last_patience: Cell<u32>,
}

impl<'a, T: Td> Session<'a, T> {
    fn new(td: &'a T) -> Self {
        Self {
            td,
            held: Cell::new(false),
            lost: Cell::new(None),
            patience: Cell::new(TRIES_HELD),
            last_patience: Cell::new(TRIES_HELD_LAST),
        }
    }

    fn relocate_untracked(&self, outcomes: &mut [Outcome]) {
        for (nr, outcome) in outcomes.iter_mut().enumerate() {
            *outcome = match self.settle(|| self.td.relocate(nr)) {
                (Verdict::Done, answer) => self.moved(nr, answer),
                (Verdict::Contended, _) => Outcome::Contended,
                _ => Outcome::Refused,
            };
        }
    }

    fn relocate_tracked(&self, outcomes: &mut [Outcome]) {
        let mut blocked = [const { None }; BATCH];
        let mut any = false;
        for (nr, outcome) in outcomes.iter_mut().enumerate() {
            match self.block(nr) {
                Ok(page) => {
                    blocked[nr] = Some(page);
                    any = true;
                }
                Err(why) => *outcome = why,
            }
        }
        if !any {
            return;
        }
        let tracked = self.track();
        for (outcome, page) in outcomes.iter_mut().zip(blocked) {
            let Some(page) = page else { continue };
            *outcome = match &tracked {
                Ok(tracked) => self.relocate_blocked(page, tracked),
                Err(why) => self.unblock(page, *why),
            };
        }
    }

    /// Calls `call` until it is not contended any more.
    fn settle(&self, call: impl Fn() -> Answer) -> (Verdict, Answer) {
        self.settle_within(&self.patience, call)
    }

    fn settle_within(&self, patience: &Cell<u32>, call: impl Fn() -> Answer) -> (Verdict, Answer) {
        let mut answer = call();
        let mut verdict = answer.verdict();
        let mut tries = 1;
        while verdict == Verdict::Contended {
            if tries >= TRIES {
                let Some(left) = patience.get().checked_sub(1) else {
                    break;
                };
                patience.set(left);
                self.hold();
            }
            core::hint::spin_loop();
            answer = call();
            verdict = answer.verdict();
            tries += 1;
        }
        if verdict == Verdict::Lost {
            self.lose(TdLost::Dead);
        }
        (verdict, answer)
    }

    /// The worse reason stays.
    fn lose(&self, why: TdLost) {
        if self.lost.get() != Some(TdLost::Broken) {
            self.lost.set(Some(why));
        }
    }

    /// Makes every vCPU leave the guest, and keeps them outside until the end of the batch.
    fn hold(&self) {
        if !self.held.replace(true) {
            self.td.hold();
        }
    }

    fn block(&self, nr: usize) -> Result<Blocked, Outcome> {
        match self.settle(|| self.td.block(nr)).0 {
            Verdict::Done | Verdict::AlreadyBlocked => Ok(Blocked(nr)),
            Verdict::Contended => Err(Outcome::Contended),
            _ => Err(Outcome::Refused),
        }
    }

    fn track(&self) -> Result<Tracked, Outcome> {
        match self.settle(|| self.td.track()).0 {
            Verdict::Done => {}
            Verdict::Contended => return Err(Outcome::Contended),
            _ => return Err(Outcome::Refused),
        }
        // Without it the next TRACK would fail, whoever makes it.
        if !self.held.get() {
            self.td.kick();
        }
        Ok(Tracked)
    }

    /// Tracks once more, with no vCPU in the guest.
    fn track_again(&self) {
        self.hold();
        // The call that has asked for it tells whether it helped.
        let _ = self.track();
    }

    fn relocate_blocked(&self, page: Blocked, _: &Tracked) -> Outcome {
        let nr = page.0;
        for _ in 0..REPAIRS {
            if self.lost.get().is_some() {
                break;
            }
            match self.settle(|| self.td.relocate(nr)) {
                (Verdict::Done, answer) => return self.moved(nr, answer),
                (Verdict::Contended, _) => return self.unblock(page, Outcome::Contended),
                (Verdict::NotTracked, _) => self.track_again(),
                // The page may be blocked nonetheless, if the module is wrong about one of both.
                (Verdict::NotBlocked, _) => match self.block(nr) {
                    Ok(_) => self.track_again(),
                    Err(why) => return self.unblock(page, why),
                },
                _ => break,
            }
        }
        self.unblock(page, Outcome::Refused)
    }

    /// Gives a page back to the guest where it was; `why` it has not moved.
    fn unblock(&self, page: Blocked, why: Outcome) -> Outcome {
        for _ in 0..REPAIRS {
            match self.settle_within(&self.last_patience, || self.td.unblock(page.0)) {
                (Verdict::Done, _) => return why,
                (Verdict::NotTracked, _) => self.track_again(),
                // It was not blocked at all.
                (Verdict::Refused, answer) if answer.entry_in_use() => {
                    return if answer.page() == self.td.old_page(page.0) {
                        why
                    } else {
                        self.moved(page.0, answer)
                    };
                }
                _ => break,
            }
        }
        self.lose(TdLost::Dead);
        Outcome::Stuck
    }

    /// After PAGE.RELOCATE: the module has the last word on which page it was.
    fn moved(&self, nr: usize, answer: Answer) -> Outcome {
        if answer.page() == self.td.old_page(nr) {
            Outcome::Moved
        } else {
            self.lose(TdLost::Broken);
            Outcome::MovedElse
        }
    }
}

impl<T: Td> Drop for Session<'_, T> {
    fn drop(&mut self) {
        if self.held.get() {
            self.td.release();
        }
    }
}
