// SPDX-License-Identifier: GPL-2.0

//! Pages of one file that move together.

use super::{
    guests::BoundGuests,
    lost,
    Attachment, //
};
use crate::{
    backend::software::Software,
    refusal::Refusal,
    relocate::{
        Cause,
        Page,
        Plan, //
    }, //
};
use kernel::prelude::*;
use privmemfd_kernel::{
    kvm::{
        InPlace,
        Move, //
    },
    mm::{
        folio::{
            LockedFolio,
            NewFolio, //
        },
        folio_batch::Leaving,
        mapping::Shared, //
    }, //
};

/// What one [`Batch`] after the other is made of, all of it there before the locks that guests wait for
/// are taken.
pub(super) struct Room {
    /// Those that are to take the places, and when it is known whose, those that are to make room:
    /// the first ones have both.
    pairs: KVec<Pair>,
    /// Empty.
    moves: KVec<Move<'static, InPlace>>,
    /// Empty: for those that have made room.
    leaving: Leaving,
}

/// The folio that is to make room, and the one that is to take its place.
struct Pair {
    src: Option<LockedFolio>,
    dst: NewFolio,
}

impl Room {
    /// For so many pages. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(pages: usize) -> Result<Self> {
        Ok(Self {
            pairs: KVec::with_capacity(pages, GFP_KERNEL)?,
            moves: KVec::with_capacity(pages, GFP_KERNEL)?,
            leaving: Leaving::new(pages)?,
        })
    }

    /// Has `dst` take the place of a page. For no more than there is room.
    pub(super) fn take(&mut self, dst: NewFolio) {
        // What is too much is free again.
        let _ = self.pairs.push_within_capacity(Pair { src: None, dst });
    }

    /// Folios that it has taken.
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Lets go of all locks. The new folios are in the file, or nothing was moved to them; the old ones
    /// are left, for guests come first: to free pages takes long when the lists of the CPU are full.
    fn unlock(&mut self) {
        for Pair { src, dst } in self.pairs.drain_all() {
            drop(dst);
            if let Some(src) = src {
                self.leaving.add(src.unlock());
            }
        }
    }

    /// A batch of pages of `file`, whose lock is `held`. Takes all folios with it.
    pub(super) fn batch<'a>(&'a mut self, file: &'a Attachment, held: Shared<'a>) -> Batch<'a> {
        Batch {
            file,
            room: self,
            len: 0,
            held,
        }
    }
}

/// Pages that guests are kept off together, with the folios that are to take their places.
#[must_use = "the folios stay locked until it has run"]
pub(super) struct Batch<'a> {
    file: &'a Attachment,
    room: &'a mut Room,
    /// Pairs that are complete.
    len: usize,
    held: Shared<'a>,
}

impl Batch<'_> {
    /// Has `src` make room for one of the folios that [`Room::take`] has got. Does nothing if there
    /// is none left.
    pub(super) fn add(&mut self, src: LockedFolio) {
        if let Some(pair) = self.room.pairs.get_mut(self.len) {
            pair.src = Some(src);
            self.len += 1;
        }
    }

    /// Moves the pages, and counts and tells how each has ended. Says how many have moved.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there was no room for all of them, and none has moved.
    pub(super) fn run(
        self,
        cause: Cause,
        mut ended: impl FnMut(&Page<'_>, Result<(), Refusal>),
    ) -> Result<u64> {
        let Self {
            file, room, held, ..
        } = self;
        let mut moves: KVec<Move<'_, InPlace>> = core::mem::take(&mut room.moves);
        let mut pairs_of_two = room
            .pairs
            .iter_mut()
            .filter_map(|Pair { src, dst }| Some(Move::new(src.as_mut()?, dst)));
        let fit =
            pairs_of_two.try_for_each(|mv| moves.push_within_capacity(mv).map_err(|_| ENOMEM));
        if fit.is_err() {
            moves.clear();
        }
        // If there is nothing to move nobody is kept off, and what earlier batches owe guests is
        // still owed.
        let keeps_off = !moves.is_empty();
        let mut moved = 0;
        if keeps_off {
            Plan::new(&mut moves, cause).run(
                &held,
                &BoundGuests(file),
                &Software,
                |page, outcome| {
                    match outcome {
                        Ok(()) => moved += 1,
                        Err(_) => file.object().count(outcome, 1),
                    }
                    lost::settle(file, page.src, outcome);
                    ended(&page, outcome);
                },
            );
        }
        room.moves = Move::recycle(moves);
        room.unlock();
        drop(held);
        if keeps_off {
            file.object().turns.over();
        }
        room.leaving.go();
        // Once: all CPUs share these.
        file.object().count(Ok(()), moved);
        fit.map(|()| moved)
    }
}
