// SPDX-License-Identifier: GPL-2.0
//! Which operation comes next, how often, with which numbers.

use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;
use proptest_state_machine::ReferenceStateMachine;

use crate::model::{Fault, Op, Page, State, FILES, MOST_PAGES, SLOTS, VMS};

/// The model as the library wants it.
#[derive(Debug)]
pub struct Model<const TDX: bool>;

impl<const TDX: bool> ReferenceStateMachine for Model<TDX> {
    type State = State;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<State> {
        Just(State::new(TDX)).boxed()
    }

    fn transitions(state: &State) -> BoxedStrategy<Op> {
        next(state)
    }

    fn apply(state: State, op: &Op) -> State {
        state.apply(op)
    }

    fn preconditions(state: &State, op: &Op) -> bool {
        state.allows(op)
    }
}

fn node() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![3 => Just(None), 1 => (0u32..2).prop_map(Some)]
}

/// Some of so many pages, mostly a few.
fn pages(count: usize) -> impl Strategy<Value = Range<usize>> {
    let len = prop_oneof![3 => 1..=4usize, 2 => 1..=count];
    (0..count, len).prop_map(move |(start, len)| start..(start + len).min(count))
}

/// An operation, and how often it comes beside others.
type Choice = (u32, BoxedStrategy<Op>);

macro_rules! choose {
    ($choices:ident, $weight:expr, $strategy:expr) => {
        $choices.push(($weight, $strategy.boxed()))
    };
}

fn next(state: &State) -> BoxedStrategy<Op> {
    let mut all: Vec<Choice> = vec![(2, Just(Op::Compact).boxed())];
    for file in 0..FILES {
        match &state.files[file] {
            None => create(&mut all, file),
            Some(f) => {
                on_descriptor(&mut all, state, file);
                if f.own {
                    on_file(&mut all, file, f.pages.len());
                    on_failed(&mut all, file, &f.pages);
                    on_td(&mut all, state, file, f.pages.len());
                    on_binding(&mut all, state, file, f.pages.len());
                }
            }
        }
    }
    for vm in 0..VMS {
        on_vm(&mut all, state, vm);
    }
    if state.offline {
        choose!(all, 60, Just(Op::Online));
    }
    Union::new_weighted(all).boxed()
}

fn create(all: &mut Vec<Choice>, file: usize) {
    let movable = prop_oneof![9 => Just(true), 1 => Just(false)];
    let new = (1..=MOST_PAGES, movable, node());
    choose!(
        all,
        60,
        new.prop_map(move |(pages, movable, node)| Op::Create {
            file,
            pages,
            movable,
            node
        })
    );
}

fn on_descriptor(all: &mut Vec<Choice>, state: &State, file: usize) {
    for (weight, op) in [
        (4, Op::Close { file }),
        (2, Op::Inherit { file }),
        (10, Op::Reap { file }),
        (20, Op::Adopt { file }),
    ] {
        if state.allows(&op) {
            choose!(all, weight, Just(op));
        }
    }
}

fn on_file(all: &mut Vec<Choice>, file: usize, count: usize) {
    choose!(
        all,
        30,
        pages(count).prop_map(move |at| Op::Allocate { file, at })
    );
    choose!(
        all,
        2,
        pages(count).prop_map(move |at| Op::AllocateLimited { file, at })
    );
    choose!(
        all,
        30,
        pages(count).prop_map(move |at| Op::Punch { file, at })
    );
    let moves = (pages(count), node());
    choose!(
        all,
        80,
        moves.prop_map(move |(at, node)| Op::Move { file, at, node })
    );
    choose!(
        all,
        6,
        (0..count).prop_map(move |page| Op::Soft { file, page })
    );
    choose!(
        all,
        6,
        (0..count).prop_map(move |page| Op::Poison { file, page })
    );
    choose!(
        all,
        1,
        (0..count).prop_map(move |page| Op::Offline { file, page })
    );
    choose!(
        all,
        1,
        pages(count).prop_map(move |at| Op::KilledVm { file, at })
    );
}

/// What has failed before is met again, in a block that is offline too.
fn on_failed(all: &mut Vec<Choice>, file: usize, pages: &[Page]) {
    let failed = (0..pages.len()).filter(|n| pages[*n] == Page::Failed);
    let failed: Vec<usize> = failed.collect();
    if !failed.is_empty() {
        let page = select(failed.clone());
        choose!(
            all,
            10,
            page.prop_map(move |n| Op::Punch { file, at: n..n + 1 })
        );
        choose!(
            all,
            10,
            select(failed).prop_map(move |page| Op::Offline { file, page })
        );
    }
}

fn on_binding(all: &mut Vec<Choice>, state: &State, file: usize, count: usize) {
    if state.files[file].as_ref().is_some_and(|f| f.td.is_some()) {
        return;
    }
    for vm in (0..VMS).filter(|vm| state.vms[*vm].is_some()) {
        for slot in (0..SLOTS).filter(|slot| state.slot(vm, *slot).is_none()) {
            let whole = Just(0..count);
            let at = prop_oneof![2 => whole, 1 => pages(count)];
            choose!(
                all,
                25,
                at.prop_map(move |at| Op::Bind { vm, slot, file, at })
            );
        }
    }
}

fn on_td(all: &mut Vec<Choice>, state: &State, file: usize, count: usize) {
    if state.allows(&Op::NewTd { file }) {
        choose!(all, 12, Just(Op::NewTd { file }));
    }
    let Some(td) = state.files[file].as_ref().and_then(|f| f.td.as_ref()) else {
        let fault = Fault::CopyFails;
        let moves = pages(count).prop_map(move |at| Op::MoveWithFault { file, at, fault });
        choose!(all, 10, moves);
        return;
    };
    choose!(all, if td.lost { 60 } else { 6 }, Just(Op::KillTd { file }));
    choose!(
        all,
        60,
        pages(count).prop_map(move |at| Op::Accept { file, at })
    );
    choose!(
        all,
        60,
        pages(count).prop_map(move |at| Op::Fill { file, at })
    );
    choose!(
        all,
        40,
        pages(count).prop_map(move |at| Op::Check { file, at })
    );
    let faults = (pages(count), select(Fault::OF_TDS.to_vec()));
    choose!(
        all,
        30,
        faults.prop_map(move |(at, fault)| Op::MoveWithFault { file, at, fault })
    );
}

fn on_vm(all: &mut Vec<Choice>, state: &State, vm: usize) {
    if state.vms[vm].is_none() {
        choose!(all, 10, Just(Op::NewVm { vm }));
        return;
    }
    choose!(all, 2, Just(Op::KillVm { vm }));
    for slot in 0..SLOTS {
        let Some(count) = state.slot(vm, slot).map(|s| s.shared.len()) else {
            continue;
        };
        choose!(all, 8, Just(Op::Unbind { vm, slot }));
        let convert = (pages(count), any::<bool>());
        choose!(
            all,
            20,
            convert.prop_map(move |(at, shared)| Op::Convert {
                vm,
                slot,
                at,
                shared
            })
        );
        choose!(
            all,
            15,
            pages(count).prop_map(move |at| Op::Prefault { vm, slot, at })
        );
        choose!(
            all,
            80,
            pages(count).prop_map(move |at| Op::Write { vm, slot, at })
        );
        choose!(
            all,
            60,
            pages(count).prop_map(move |at| Op::Verify { vm, slot, at })
        );
    }
}
