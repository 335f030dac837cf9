// SPDX-License-Identifier: GPL-2.0

//! A memory block goes offline: its pages leave it in batches, before mm asks for the first.
//!
//! What is in the way of one, mm meets as well when it comes to it, and has rules for. So nothing is
//! waited for here, neither a page nor a file that somebody is at work on, nor is anything tried
//! again, and whatever goes wrong leaves the rest to mm: a shortage of memory, a signal.

use super::{
    batch::Room,
    Attachment,
    PrivMem, //
};
use crate::{
    relocate::{
        batch,
        Cause, //
    },
    stats::TOTALS, //
};
use kernel::{
    alloc::KVVec,
    current,
    prelude::*, //
};
use privmemfd_kernel::{
    fs::private_file::{
        Residents,
        Sighting, //
    },
    mm::mapping::Mobility, //
};

/// Pages that are gathered by file at a time, so that many files with pages all over the block make
/// full batches all the same: 96 KiB.
const WINDOW: usize = 4096;

/// Moves what the files have in `block`.
pub(super) fn clear(block: &mut Residents<'_, PrivMem>) {
    // What has not moved is mm's.
    let _ = try_clear(block);
}

/// # Errors
///
/// `EINTR`: a signal is pending. `ENOMEM`.
fn try_clear(block: &mut Residents<'_, PrivMem>) -> Result {
    let mut seen = KVVec::with_capacity(WINDOW, GFP_KERNEL)?;
    loop {
        block.look(&mut seen);
        if seen.is_empty() {
            return Ok(());
        }
        let mut rest = &mut seen[..];
        while let Some(first) = rest.first().copied() {
            let of_first = gather(rest, &first);
            let (of_one, others) = rest.split_at_mut(of_first);
            of_one.chunks_mut(batch()).for_each(order);
            // The first that tells whose they are.
            if let Some(file) = of_one.iter().find_map(|page| block.file(page)) {
                clear_of(&file, of_one, block)?;
            }
            rest = others;
        }
    }
}

/// Brings those that are of the file of `first` to the front, in their order; says how many.
fn gather(seen: &mut [Sighting], first: &Sighting) -> usize {
    let mut found = 0;
    for nr in 0..seen.len() {
        if seen[nr].same_file(first) {
            seen.swap(found, nr);
            found += 1;
        }
    }
    found
}

/// Puts a batch of one file into the order of offsets, which KVM wants. It mostly has that, or the
/// opposite. Core's sorts cannot be had everywhere: objtool of Linux 7.3 does not know that what they
/// call for a bad order does not return.
fn order(pages: &mut [Sighting]) {
    if pages
        .first()
        .zip(pages.last())
        .is_some_and(|(first, last)| last.index() < first.index())
    {
        pages.reverse();
    }
    for end in 1..pages.len() {
        let mut nr = end;
        while nr > 0 && pages[nr].index() < pages[nr - 1].index() {
            pages.swap(nr, nr - 1);
            nr -= 1;
        }
    }
}

/// Moves those of `pages`, all of `file`, that nothing is in the way of.
fn clear_of(file: &Attachment, pages: &[Sighting], block: &Residents<'_, PrivMem>) -> Result {
    if file.object().mobility == Mobility::Pinned {
        return Ok(());
    }
    let mut away = block.block().away();
    let mut room = Room::new(batch().min(pages.len()))?;
    for pages in pages.chunks(batch()) {
        if current!().signal_pending() {
            return Err(EINTR);
        }
        // Memory first: allocation may sleep for long, and must not do so under folio locks.
        away.alloc(pages.len(), |dst| room.take(dst))?;
        file.object().turns.wait();
        let Some(held) = file.mapping().try_lock_shared() else {
            return Ok(());
        };
        let mut batch = room.batch(file, held);
        for page in pages {
            // What is lost mm is told when it asks.
            let lost = &file.object().lost;
            if let Some(src) = block
                .try_lock(file, page)
                .filter(|src| !src.is_unusable() && lost.get(src.index()).is_none())
            {
                batch.add(src);
            }
        }
        let moved = batch.run(Cause::Mm, |_, _| {})?;
        TOTALS.relocated_ahead.add(moved);
    }
    Ok(())
}
