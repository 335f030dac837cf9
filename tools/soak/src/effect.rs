// SPDX-License-Identifier: GPL-2.0
//! What each operation does to the model, and how it must end.

use std::ops::Range;

use crate::model::{Expect, Fault, File, Op, Page, Sept, Slot, State, Td, Vm, COPIES, LIMIT_PAGES};

/// Applies an operation that [`State::allows`].
pub fn apply(s: &mut State, op: &Op) {
    match op.clone() {
        Op::Create {
            file,
            pages,
            movable,
            ..
        } => {
            s.files[file] = Some(File {
                pages: vec![Page::Absent; pages],
                movable,
                own: true,
                child: false,
                td: None,
                spoiled: false,
            });
        }
        // A TD holds its file.
        Op::Close { file } => {
            let f = of(s, file);
            f.own = false;
            // The test closes the TD with it.
            end_td(f);
        }
        Op::Inherit { file } => of(s, file).child = true,
        Op::Reap { file } => of(s, file).child = false,
        Op::Adopt { file } => of(s, file).own = true,
        Op::Allocate { file, at } => s.expect = allocate(of(s, file), at),
        Op::AllocateLimited { file, at } => s.expect = allocate_limited(of(s, file), at),
        Op::Punch { file, at } => {
            let f = of(s, file);
            for n in at {
                f.pages[n] = Page::Absent;
                if let Some(td) = &mut f.td {
                    td.sept[n] = Sept::Free;
                }
            }
        }
        Op::Move { file, at, node } => s.expect = move_pages(of(s, file), at, node.is_some()),
        Op::MoveWithFault { file, at, fault } => {
            s.expect = move_with_fault(of(s, file), at, fault);
        }
        Op::Compact => {}
        Op::Soft { file, .. } => {
            let f = of(s, file);
            if !f.movable {
                s.expect = Expect::Fails(vec![libc::EBUSY, libc::EIO, libc::EAGAIN]);
            }
        }
        Op::Poison { file, page } => {
            let f = of(s, file);
            f.pages[page] = Page::Failed;
            if let Some(td) = &mut f.td {
                td.sept[page] = Sept::Free;
            }
        }
        // Other memory in the block may refuse.
        Op::Offline { .. } => {
            s.offline = true;
            s.expect = Expect::Either(vec![libc::EBUSY]);
        }
        Op::Online => s.offline = false,
        Op::NewVm { vm } => s.vms[vm] = Some(Vm::default()),
        Op::KillVm { vm } => s.vms[vm] = None,
        Op::KilledVm { file, at } => {
            let serial = s.serial;
            let f = of(s, file);
            let failed = at.clone().find(|n| f.pages[*n] == Page::Failed);
            for n in at.start..failed.unwrap_or(at.end) {
                f.pages[n] = Page::Filled(serial);
            }
            if let Some(n) = failed {
                s.expect = Expect::Fault(n - at.start, libc::EHWPOISON);
            }
        }
        Op::Bind { vm, slot, file, at } => s.expect = bind(s, vm, slot, file, at),
        Op::Unbind { vm, slot } => s.vms[vm].as_mut().expect("allowed").slots[slot] = None,
        Op::Convert {
            vm,
            slot,
            at,
            shared,
        } => {
            let vm = s.vms[vm].as_mut().expect("allowed");
            vm.slots[slot].as_mut().expect("allowed").shared[at].fill(shared);
        }
        Op::Prefault { vm, slot, at } => {
            let failed = guest(s, vm, slot, at, false);
            s.expect = failed.map_or(Expect::Ok, |(_, errno)| Expect::Fails(vec![errno]));
        }
        Op::Write { vm, slot, at } => {
            let failed = guest(s, vm, slot, at, true);
            s.expect = failed.map_or(Expect::Ok, |(n, errno)| Expect::Fault(n, errno));
        }
        // Reads page by page, and goes on behind one that fails.
        Op::Verify { vm, slot, at } => {
            for n in at {
                s.touch(vm, slot, n, false);
            }
        }
        Op::NewTd { file } => {
            let f = of(s, file);
            f.td = Some(Td {
                sept: vec![Sept::Free; f.pages.len()],
                used_early: false,
                lost: false,
            });
            hide(f);
        }
        Op::KillTd { file } => end_td(of(s, file)),
        Op::Accept { file, at } => {
            s.expect = in_td(s, file, at, |page, sept, _| {
                if *sept != Sept::Accepted {
                    (*page, *sept) = (Page::Zero, Sept::Accepted);
                }
            })
        }
        Op::Fill { file, at } => {
            s.expect = in_td(s, file, at, |page, sept, serial| {
                if *sept == Sept::Accepted {
                    *page = Page::Filled(serial);
                }
            })
        }
        Op::Check { file, at } => {
            let f = of(s, file);
            let td = f.td.as_mut().expect("allowed");
            if let Some(n) = at.clone().find(|n| f.pages[*n] == Page::Opaque) {
                if !td.lost && !std::mem::replace(&mut td.used_early, true) {
                    td.sept[n] = Sept::Pending;
                }
            }
            s.expect = in_td(s, file, at, |_, _, _| ());
        }
    }
}

fn of(s: &mut State, file: usize) -> &mut File {
    s.files[file].as_mut().expect("allowed")
}

/// What is in memory that a TD gets, or has left.
fn hide(f: &mut File) {
    for page in &mut f.pages {
        if page.has_memory() != Some(false) {
            *page = if *page == Page::Maybe {
                Page::Maybe
            } else {
                Page::Opaque
            };
        }
    }
}

fn end_td(f: &mut File) {
    if let Some(td) = f.td.take() {
        hide(f);
        f.spoiled = td.lost;
    }
}

fn allocate(f: &mut File, at: Range<usize>) -> Expect {
    for n in at {
        match f.pages[n] {
            Page::Failed => return Expect::Fails(vec![libc::EHWPOISON]),
            Page::Absent | Page::Maybe => f.pages[n] = Page::Zero,
            _ => {}
        }
    }
    Expect::Ok
}

fn allocate_limited(f: &mut File, at: Range<usize>) -> Expect {
    let failed = at.clone().find(|n| f.pages[*n] == Page::Failed);
    let reach = at.start..failed.unwrap_or(at.end);
    let wanted = reach
        .clone()
        .filter(|n| f.pages[*n].has_memory() != Some(true))
        .count();
    // What was charged to the cgroup before counts as well.
    for n in reach {
        if f.pages[n].has_memory() != Some(true) {
            f.pages[n] = Page::Maybe;
        }
    }
    match failed {
        None if wanted == 0 => Expect::Ok,
        None if wanted > LIMIT_PAGES => Expect::Fails(vec![libc::ENOMEM]),
        None => Expect::Either(vec![libc::ENOMEM]),
        Some(_) => Expect::Fails(vec![libc::ENOMEM, libc::EHWPOISON]),
    }
}

fn movable(f: &File, at: &Range<usize>) -> (u64, u64) {
    let pages = f.pages[at.clone()].iter();
    let sure = pages
        .clone()
        .filter(|p| p.has_memory() == Some(true))
        .count();
    let open = pages.filter(|p| p.has_memory().is_none()).count();
    (sure as u64, (sure + open) as u64)
}

fn move_pages(f: &File, at: Range<usize>, to_node: bool) -> Expect {
    if !f.movable {
        return Expect::Fails(vec![libc::EBUSY]);
    }
    let (least, most) = movable(f, &at);
    if f.spoiled || f.td.as_ref().is_some_and(|t| t.lost) {
        return Expect::Either(vec![libc::EBUSY]);
    }
    Expect::Moved(if to_node { 0 } else { least }..=most)
}

fn move_with_fault(f: &mut File, at: Range<usize>, fault: Fault) -> Expect {
    if fault == Fault::CopyFails {
        let filled = |n: &usize| matches!(f.pages[*n], Page::Filled(_));
        let lost: Vec<usize> = at.filter(filled).take(COPIES).collect();
        for n in &lost {
            f.pages[*n] = Page::Failed;
        }
        let ends = Expect::Fails(vec![libc::EHWPOISON]);
        return if lost.is_empty() { Expect::Ok } else { ends };
    }
    let (_, most) = movable(f, &at);
    let td = f.td.as_mut().expect("allowed");
    // Only what the TDX module knows takes calls of it.
    let mapped = at.clone().any(|n| td.sept[n] != Sept::Free);
    let refused = Expect::Fails(vec![libc::EAGAIN, libc::EBUSY]);
    match fault {
        _ if !mapped => Expect::Either(vec![libc::EAGAIN, libc::EBUSY]),
        Fault::BlockBusy | Fault::TrackBusy | Fault::RelocateBusy => {
            let (least, _) = movable(f, &at);
            Expect::Moved(least..=most)
        }
        Fault::RelocateRefused | Fault::BlockRefused => refused,
        Fault::UnblockRefused => {
            td.lost = true;
            refused
        }
        Fault::CopyFails => unreachable!("no fault of a TD's"),
    }
}

fn bind(s: &mut State, vm: usize, slot: usize, file: usize, at: Range<usize>) -> Expect {
    let overlaps = s.slots_of(file).any(|(v, _, other)| {
        let other = other.covers();
        v == vm && at.start < other.end && other.start < at.end
    });
    if overlaps {
        return Expect::Fails(vec![libc::EEXIST]);
    }
    let new = Slot {
        file,
        offset: at.start,
        backing: vec![Page::Absent; at.len()],
        shared: vec![false; at.len()],
    };
    s.vms[vm].as_mut().expect("allowed").slots[slot] = Some(new);
    Expect::Ok
}

/// A guest touches pages until one fails.
fn guest(
    s: &mut State,
    vm: usize,
    slot: usize,
    at: Range<usize>,
    write: bool,
) -> Option<(usize, i32)> {
    at.into_iter()
        .find_map(|n| s.touch(vm, slot, n, write).map(|errno| (n, errno)))
}

fn in_td(
    s: &mut State,
    file: usize,
    at: Range<usize>,
    act: impl Fn(&mut Page, &mut Sept, u32),
) -> Expect {
    let serial = s.serial;
    let f = of(s, file);
    let td = f.td.as_mut().expect("allowed");
    if td.lost {
        return Expect::Fails(vec![libc::EIO]);
    }
    for n in at {
        if f.pages[n] != Page::Failed {
            act(&mut f.pages[n], &mut td.sept[n], serial);
        }
    }
    Expect::Ok
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TD on memory that was there before, after some operations.
    fn td(operations: &[Op]) -> Td {
        let (file, at) = (0, 0..4);
        let create = Op::Create {
            file,
            pages: 4,
            movable: true,
            node: None,
        };
        let before = [create, Op::Allocate { file, at }, Op::NewTd { file }];
        let mut state = State::new(true);
        for op in before.iter().chain(operations) {
            assert!(state.allows(op), "{op:?}");
            state = state.apply(op);
        }
        state.files[file].take().unwrap().td.unwrap()
    }

    fn refused(page: usize) -> Op {
        Op::MoveWithFault {
            file: 0,
            at: page..page + 1,
            fault: Fault::UnblockRefused,
        }
    }

    #[test]
    fn a_page_that_a_td_has_used_before_it_accepts_it_can_cost_it_its_life() {
        let check = Op::Check { file: 0, at: 1..3 };
        let punch = Op::Punch { file: 0, at: 1..2 };
        assert!(!td(&[refused(1)]).lost);
        assert!(td(&[check.clone(), refused(1)]).lost);
        // The first page alone is used, and once.
        assert!(!td(&[check.clone(), refused(2)]).lost);
        assert!(!td(&[check.clone(), Op::Check { file: 0, at: 2..3 }, refused(2)]).lost);
        assert!(!td(&[check, punch, refused(1)]).lost);
    }
}
