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
    kvm::Move,
    mm::{
        folio::{
            Folio,
            Locked,
            LockedFolio, //
        },
        mapping::Shared, //
    }, //
};

/// Pages that guests are kept off together, with the folios that are to take their places.
pub(super) struct Batch<'a> {
    file: &'a Attachment,
    pairs: KVec<(LockedFolio, LockedFolio)>,
    // Last: a folio lock is inside this one.
    held: Shared<'a>,
}

impl<'a> Batch<'a> {
    /// Room for `pages`; `held` is the lock of `file`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(file: &'a Attachment, held: Shared<'a>, pages: usize) -> Result<Self> {
        Ok(Self {
            file,
            pairs: KVec::with_capacity(pages, GFP_KERNEL)?,
            held,
        })
    }

    /// Has `dst`, which nobody else knows, take the place of `src`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is more than was made room for.
    pub(super) fn add(&mut self, src: LockedFolio, dst: ARef<Folio>) -> Result {
        self.pairs
            .push_within_capacity((src, Folio::lock(dst)))
            .map_err(|_| ENOMEM)
    }

    /// Moves the pages, and counts and tells how each has ended. Says how many have moved.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: none has moved.
    pub(super) fn run(
        self,
        cause: Cause,
        mut ended: impl FnMut(&Locked, &Locked, Result<(), Refusal>),
    ) -> Result<u64> {
        let Self { file, pairs, held } = self;
        let mut moves = KVec::with_capacity(pairs.len(), GFP_KERNEL)?;
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
