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
        Plan, //
    }, //
};
use kernel::{
    prelude::*,
    sync::aref::ARef, //
};
use privmemfd_kernel::{
    kvm::{
        InPlace,
        Move, //
    },
    mm::{
        folio::{
            Folio,
            Locked,
            LockedFolio, //
        },
        mapping::Shared, //
    }, //
};

/// Memory for a [`Batch`], which takes none when it holds locks that guests wait for.
pub(super) struct Room {
    pairs: KVec<(LockedFolio, LockedFolio)>,
    /// Empty.
    moves: KVec<Move<'static, InPlace>>,
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
        })
    }

    /// A batch of pages of `file`, whose lock is `held`.
    pub(super) fn batch<'a>(self, file: &'a Attachment, held: Shared<'a>) -> Batch<'a> {
        Batch {
            file,
            room: self,
            held,
        }
    }
}

/// Pages that guests are kept off together, with the folios that are to take their places.
pub(super) struct Batch<'a> {
    file: &'a Attachment,
    room: Room,
    // Last: a folio lock is inside this one.
    held: Shared<'a>,
}

impl Batch<'_> {
    /// Has `dst`, which nobody else knows, take the place of `src`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is more than was made room for.
    pub(super) fn add(&mut self, src: LockedFolio, dst: ARef<Folio>) -> Result {
        self.room
            .pairs
            .push_within_capacity((src, Folio::lock(dst)))
            .map_err(|_| ENOMEM)
    }

    /// Moves the pages, and counts and tells how each has ended. Says how many have moved.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there was no room for all of them, and none has moved.
    pub(super) fn run(
        self,
        cause: Cause,
        mut ended: impl FnMut(&Locked, &Locked, Result<(), Refusal>),
    ) -> Result<u64> {
        let Self { file, room, held } = self;
        let pairs = room.pairs;
        let mut moves: KVec<Move<'_, InPlace>> = room.moves;
        for (src, dst) in &pairs {
            moves
                .push_within_capacity(Move::new(src, dst))
                .map_err(|_| ENOMEM)?;
        }
        let mut moved = 0;
        Plan::new(&mut moves, cause).run(&held, &BoundGuests(file), &Software, |nr, outcome| {
            let (src, dst) = &pairs[nr];
            match outcome {
                Ok(()) => moved += 1,
                Err(_) => file.object().count(outcome, 1),
            }
            lost::settle(file, src, outcome);
            ended(src, dst, outcome);
        });
        // Once: all CPUs share these.
        file.object().count(Ok(()), moved);
        Ok(moved)
    }
}
