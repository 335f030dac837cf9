// SPDX-License-Identifier: GPL-2.0

//! ioctls on a privmemfd.

use super::{
    batch::Room,
    lost::Loss,
    Attachment,
    PrivMem, //
};
use crate::{
    refusal::Refusal,
    relocate::{
        batch,
        Cause, //
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
    mm::{
        folio::Folio,
        mapping::{
            alloc_folios,
            Mobility,
            Node, //
        }, //
    }, //
};

/// Page frame numbers written to user memory at once.
const CHUNK: usize = 64;
/// Pages whose statuses are written to user memory at once.
const WINDOW: usize = 512;

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
    answer.vms = file.bindings().vms().into();
    answer.slots = file.bindings().slots().into();
    answer.relocated = relocations.done();
    file.mapping().for_each_folio(all(file), |_, folio| {
        if request.node.is_none_or(|nid| nid == folio.nid()) {
            answer.zone_pages[uapi::zone_index(folio.zone())] += 1;
        }
        interrupted()
    })?;
    object.lost.for_each(all(file), |_, loss| {
        if let Loss::Suspect { nid } | Loss::Failed { nid } = loss {
            answer.poisoned += u64::from(request.node.is_none_or(|node| node == i32::from(nid)));
        }
        true
    });
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
    let mut report = Report::new(&request)?;
    let result = move_range(file, &request, &mut report);
    let moved = report.moved;
    request.answer(arg, moved)?;
    result
}

fn move_range(file: &Attachment, request: &uapi::MoveRequest, report: &mut Report<'_>) -> Result {
    let object = file.object();
    if object.mobility == Mobility::Pinned {
        object.count(Err(Refusal::Pinned), 1);
        return Err(Refusal::Pinned.into());
    }
    let mut next = request.range.start;
    while next < request.range.end {
        interrupted()?;
        let window = report.open(next);
        let end = window.end;
        let result = move_window(file, window, request.node, report, &mut next);
        // How far it has come is told in any case; why it went no further comes first.
        let told = report.close(next);
        result.and(told)?;
        next = end;
    }
    Ok(())
}

/// Moves the pages of a window. `reached` is where an error has left it: how the pages before have
/// ended is known, the others are where they were.
fn move_window(
    file: &Attachment,
    window: Range<usize>,
    node: Option<i32>,
    report: &mut Report<'_>,
    reached: &mut usize,
) -> Result {
    let lost = &file.object().lost;
    lost.for_each(window.clone(), |index, _| {
        report.ended(index, Err(EHWPOISON));
        true
    });
    let most = batch().min(window.len());
    let mut candidates = KVec::with_capacity(most, GFP_KERNEL)?;
    let mut room = Room::new(most)?;
    let mut next = window.start;
    while next < window.end {
        interrupted()?;
        // Ends early, with `ECANCELED`, when the batch is full.
        let walk = file
            .mapping()
            .for_each_folio(next..window.end, |index, folio| {
                if candidates.len() == most {
                    return Err(ECANCELED);
                }
                next = index + 1;
                if folio.is_unusable() || lost.get(index).is_some() {
                    report.ended(index, Err(EHWPOISON));
                } else if node.is_some_and(|node| node == folio.nid()) {
                    // There may be any number of them.
                    interrupted()?;
                    report.ended(index, Ok(folio.nid()));
                } else {
                    candidates
                        .push_within_capacity((index, folio))
                        .map_err(|_| ENOMEM)?;
                }
                Ok(())
            });
        if walk.is_ok() {
            next = window.end;
        }
        *reached = candidates.first().map_or(next, |(index, _)| *index);
        match walk {
            Err(e) if e != ECANCELED => return Err(e),
            _ => move_batch(file, &mut candidates, &mut room, node, report)?,
        }
        *reached = next;
        report.go_on()?;
    }
    Ok(())
}

/// Moves the candidates that are still where they were seen.
///
/// # Errors
///
/// None has moved.
fn move_batch(
    file: &Attachment,
    candidates: &mut KVec<(usize, ARef<Folio>)>,
    room: &mut Room,
    node: Option<i32>,
    report: &mut Report<'_>,
) -> Result {
    let object: &PrivMem = file.object();
    // New folios first: allocation may sleep for long, and must not do so under folio locks.
    // Move as many as there is memory for.
    let from = node.map_or(Node::Any, Node::Only);
    let take = |dst| room.take(dst);
    if alloc_folios(object.mobility, from, candidates.len(), take).is_err() {
        for (index, _) in candidates.iter().skip(room.len()) {
            object.count(Err(Refusal::NoMemory), 1);
            report.refused(*index, Refusal::NoMemory);
        }
        candidates.truncate(room.len());
    }
    if candidates.is_empty() {
        return Ok(());
    }

    object.turns.wait();
    let mut batch = room.batch(file, file.mapping().lock_shared());
    // Rising offsets: two requests at once cannot wait for each other.
    for (index, seen) in candidates.drain_all() {
        let src = Folio::lock(seen);
        if !file.mapping().has_at(index, &src) {
            // Gone and come back, or moved by somebody else meanwhile: done as well.
            drop(src);
            if let Some(other) = file.mapping().lock_folio(index) {
                report.is_at(index, &other);
            }
        } else if src.is_unusable() {
            report.is_at(index, &src);
        } else {
            batch.add(src);
        }
    }
    batch.run(Cause::Request, |page, outcome| match outcome {
        Ok(()) => report.moved(page.index, page.dst),
        Err(reason) => report.refused(page.index, reason),
    })?;
    Ok(())
}

/// What a `PRIVMEMFD_MOVE` has done so far, and what it tells of each page.
struct Report<'r> {
    request: &'r uapi::MoveRequest,
    moved: u64,
    /// Why a page has not moved, until the request has ended for it or gone on.
    refusal: Option<Refusal>,
    /// Pages whose statuses are collected; without statuses, all that are left.
    window: Range<usize>,
    statuses: KVec<i32>,
}

impl<'r> Report<'r> {
    fn new(request: &'r uapi::MoveRequest) -> Result<Self> {
        let statuses = if request.tells_statuses() {
            KVec::from_elem(0, WINDOW, GFP_KERNEL)?
        } else {
            KVec::new()
        };
        Ok(Self {
            request,
            moved: 0,
            refusal: None,
            window: 0..0,
            statuses,
        })
    }

    /// Begins a window at page `start`. What nobody reports a page of has no memory.
    fn open(&mut self, start: usize) -> Range<usize> {
        let left = self.request.range.end - start;
        let len = if self.request.tells_statuses() {
            left.min(WINDOW)
        } else {
            left
        };
        self.statuses.fill(ENOENT.to_errno());
        self.window = start..start + len;
        self.window.clone()
    }

    /// Writes the statuses of the window's pages before `reached`.
    fn close(&mut self, reached: usize) -> Result {
        let start = self.window.start;
        match self.statuses.get(..reached - start) {
            Some(statuses) => self
                .request
                .write_statuses(start - self.request.range.start, statuses),
            None => Ok(()),
        }
    }

    /// The page is on that node now, or is not, for that reason.
    fn ended(&mut self, index: usize, node: Result<i32>) {
        // Also of a folio that has left the file meanwhile: the index it had there.
        let status = index
            .checked_sub(self.window.start)
            .and_then(|i| self.statuses.get_mut(i));
        if let Some(status) = status {
            *status = node.unwrap_or_else(|e| e.to_errno());
        }
    }

    /// The page is in this folio, and will be.
    fn is_at(&mut self, index: usize, folio: &Folio) {
        let usable = !folio.is_unusable();
        self.ended(index, usable.then(|| folio.nid()).ok_or(EHWPOISON));
    }

    fn moved(&mut self, index: usize, folio: &Folio) {
        self.moved += 1;
        if !self.statuses.is_empty() {
            self.ended(index, Ok(folio.nid()));
        }
    }

    fn refused(&mut self, index: usize, reason: Refusal) {
        self.refusal = Some(reason);
        self.ended(index, Err(reason.into()));
    }

    /// Ends a request at its first batch with a page that cannot move, unless it tells of each.
    fn go_on(&mut self) -> Result {
        match self.refusal.take() {
            Some(reason) if !self.request.tells_statuses() => Err(reason.into()),
            _ => Ok(()),
        }
    }
}

fn interrupted() -> Result {
    if current!().signal_pending() {
        Err(EINTR)
    } else {
        Ok(())
    }
}
