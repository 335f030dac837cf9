// SPDX-License-Identifier: GPL-2.0

//! ioctls on a privmemfd.

use super::{
    Attachment,
    PrivMem, //
};
use crate::{
    backend::software::Software,
    kvm_binding::BoundGuests,
    relocate::{
        Cause,
        Plan,
        Refusal, //
    },
    uapi, //
};
use core::ops::Range;
use kernel::{
    current,
    prelude::*,
    sync::aref::ARef, //
};
use privmemfd_kernel::{
    capability,
    kvm::Move,
    mm::{
        folio::{
            Folio,
            LockedFolio, //
        },
        mapping::{
            alloc_folio,
            Mobility,
            Node, //
        }, //
    }, //
};

/// Pages moved under one quiesce.
const BATCH: usize = 32;
/// Page frame numbers written to user memory at once.
const CHUNK: usize = 64;

/// Dispatches; `ENOTTY` for what is unknown.
pub(super) fn ioctl(file: &Attachment, cmd: u32, arg: usize) -> Result<isize> {
    match cmd {
        uapi::STAT => stat(file, arg)?,
        uapi::PAGES => pages(file, arg)?,
        uapi::MOVE => move_pages(file, arg)?,
        _ => return Err(ENOTTY),
    }
    Ok(0)
}

fn all(file: &Attachment) -> Range<usize> {
    0..file.mapping().size() / kernel::page::PAGE_SIZE
}

/// `PRIVMEMFD_STAT`.
fn stat(file: &Attachment, arg: usize) -> Result {
    let request = uapi::Stat::read(arg)?;
    let object = file.object();
    let relocations = &object.relocations;
    let flags = uapi::flags_of(object.mobility);
    let mut answer = uapi::StatAnswer::new(flags, file.mapping().size(), |reason| {
        relocations.refused(reason)
    });
    answer.vms = object.bindings().vms().into();
    answer.slots = object.bindings().slots().into();
    answer.relocated = relocations.done();
    file.mapping().for_each_folio(all(file), |_, folio| {
        if request.node.is_none_or(|nid| nid == folio.nid()) {
            answer.zone_pages[uapi::zone_index(folio.zone())] += 1;
            answer.poisoned += u64::from(folio.is_poisoned());
        }
        interrupted()
    })?;
    request.answer(arg, &answer)
}

/// `PRIVMEMFD_PAGES`.
fn pages(file: &Attachment, arg: usize) -> Result {
    if !capability::sys_admin() {
        return Err(EPERM);
    }
    let request = uapi::Pages::read(arg, file.mapping().size())?;
    let Range { start, end } = request.range;
    for chunk in (start..end).step_by(CHUNK) {
        let len = CHUNK.min(end - chunk);
        let mut pfns = [uapi::PFN_NONE; CHUNK];
        file.mapping()
            .for_each_folio(chunk..chunk + len, |index, folio| {
                // Also of a folio that has left the file meanwhile: the index it had there.
                if let Some(pfn) = index.checked_sub(chunk).and_then(|i| pfns.get_mut(i)) {
                    *pfn = folio.pfn() as u64;
                }
                Ok(())
            })?;
        request.write(chunk - start, &pfns[..len])?;
        interrupted()?;
    }
    Ok(())
}

/// `PRIVMEMFD_MOVE`.
fn move_pages(file: &Attachment, arg: usize) -> Result {
    let request = uapi::MoveRequest::read(arg, file.mapping().size())?;
    let mut moved = 0;
    let result = move_range(file, request.range.clone(), request.node, &mut moved);
    request.answer(arg, moved)?;
    result
}

fn move_range(
    file: &Attachment,
    range: Range<usize>,
    node: Option<i32>,
    moved: &mut u64,
) -> Result {
    let object = file.object();
    if object.mobility == Mobility::Pinned {
        object.count(Err(Refusal::Pinned));
        return Err(Refusal::Pinned.into());
    }
    let mut candidates = KVec::with_capacity(BATCH, GFP_KERNEL)?;
    let mut next = range.start;
    while next < range.end {
        interrupted()?;
        // Ends early, with `ECANCELED`, when the batch is full.
        let full = file
            .mapping()
            .for_each_folio(next..range.end, |index, folio| {
                if candidates.len() == BATCH {
                    return Err(ECANCELED);
                }
                next = index + 1;
                if node != Some(folio.nid()) && !folio.is_unusable() {
                    candidates.push((index, ARef::from(folio)), GFP_KERNEL)?;
                }
                Ok(())
            });
        match full {
            Ok(()) => next = range.end,
            Err(e) if e == ECANCELED => {}
            Err(e) => return Err(e),
        }
        move_batch(file, &mut candidates, node, moved)?;
    }
    Ok(())
}

/// Moves the candidates that are still where they were seen.
fn move_batch(
    file: &Attachment,
    candidates: &mut KVec<(usize, ARef<Folio>)>,
    node: Option<i32>,
    moved: &mut u64,
) -> Result {
    let object: &PrivMem = file.object();
    let mut pairs = KVec::<(LockedFolio, LockedFolio)>::with_capacity(BATCH, GFP_KERNEL)?;
    let mut fresh = KVec::with_capacity(BATCH, GFP_KERNEL)?;
    let mut moves = KVec::with_capacity(BATCH, GFP_KERNEL)?;

    // New folios first: allocation may sleep for long, and must not do so under folio locks.
    let mut result = Ok(());
    for _ in 0..candidates.len() {
        match alloc_folio(object.mobility, node.map_or(Node::Any, Node::Only)) {
            Ok(dst) => fresh.push(dst, GFP_KERNEL)?,
            Err(_) => {
                // Move as many as there is memory for.
                object.count(Err(Refusal::NoMemory));
                result = Err(Refusal::NoMemory.into());
                break;
            }
        }
    }

    let held = file.mapping().lock_shared();
    // Rising offsets: two requests at once cannot wait for each other.
    for ((index, seen), dst) in candidates.drain_all().zip(fresh.drain_all()) {
        let Some(src) = file.mapping().lock_folio(index) else {
            continue;
        };
        // Gone and come back, or moved by somebody else meanwhile: done as well.
        if src.pfn() != seen.pfn() || src.is_unusable() {
            continue;
        }
        pairs.push((src, Folio::lock(dst)), GFP_KERNEL)?;
    }
    for (src, dst) in &pairs {
        moves.push(Move::new(src, dst), GFP_KERNEL)?;
    }

    Plan::new(&mut moves, Cause::Request).run(
        &held,
        &BoundGuests(file),
        &Software,
        |_, outcome| {
            object.count(outcome);
            match outcome {
                Ok(()) => *moved += 1,
                Err(reason) => result = Err(reason.into()),
            }
        },
    );
    result
}

fn interrupted() -> Result {
    if current!().signal_pending() {
        Err(EINTR)
    } else {
        Ok(())
    }
}
