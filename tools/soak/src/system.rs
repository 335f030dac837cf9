// SPDX-License-Identifier: GPL-2.0
//! The real thing: carries out the operations of the model, and compares.

use std::ops::Range;
use std::os::fd::AsFd;

use privmemctl::memory::{Block, MemoryMap};
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd};
use proptest_state_machine::StateMachineTest;
use vmm::VmType;

use crate::guest::Guest;
use crate::host;
use crate::model::{Expect, Op, Page, State, FILES, VMS};
use crate::process::Child;
use crate::strategy::Model;
use crate::{td, watch};

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// A range of pages in bytes.
pub fn bytes(at: &Range<usize>) -> Range<u64> {
    at.start as u64 * PAGE..at.end as u64 * PAGE
}

/// The descriptors of a file.
#[derive(Default)]
pub struct Handle {
    /// The test's own.
    pub fd: Option<PrivMemFd>,
    /// The child that has inherited one.
    pub child: Option<Child>,
    /// The TD that it is the memory of.
    pub td: Option<td::Domain>,
}

/// All that exists.
pub struct System {
    device: Device,
    /// Files by number.
    pub files: [Handle; FILES],
    /// VMs by number.
    pub guests: [Option<Guest>; VMS],
    /// The memory block that is offline.
    pub offline: Option<Block>,
    /// Pages that have failed, to be healed at the end.
    pub failed: Vec<u64>,
}

impl System {
    /// The file's descriptor.
    pub fn fd(&self, file: usize) -> &PrivMemFd {
        self.files[file].fd.as_ref().expect("the model knows")
    }

    fn guest(&mut self, vm: usize) -> &mut Guest {
        self.guests[vm].as_mut().expect("the model knows")
    }
}

/// Panics unless an operation has ended as it must.
#[track_caller]
pub fn ended(result: Result<(), i32>, expect: &Expect, op: &Op) {
    let fits = match (&result, expect) {
        (Ok(()), Expect::Ok | Expect::Either(_)) => true,
        (Err(e), Expect::Fails(errors) | Expect::Either(errors)) => errors.contains(e),
        _ => false,
    };
    assert!(fits, "{op:?}: {}, expected {expect:?}", told(&result));
}

fn told(result: &Result<(), i32>) -> String {
    match result {
        Ok(()) => "succeeded".into(),
        Err(e) => std::io::Error::from_raw_os_error(*e).to_string(),
    }
}

impl<const TDX: bool> StateMachineTest for Real<TDX> {
    type SystemUnderTest = System;
    type Reference = Model<TDX>;

    fn init_test(_: &State) -> System {
        System {
            device: Device::open().expect("/dev/privmemfd"),
            files: Default::default(),
            guests: Default::default(),
            offline: None,
            failed: Vec::new(),
        }
    }

    fn apply(mut system: System, state: &State, op: Op) -> System {
        watch::begins(&op);
        system.act(state, &op);
        system
    }

    fn check_invariants(system: &System, state: &State) {
        for file in 0..FILES {
            if state.owned(file).is_some() {
                check_file(system, state, file);
            }
        }
    }

    fn teardown(mut system: System, state: State) {
        watch::begins(&"end");
        host::check_all(&mut system, &state);
        drop(system);
        host::nothing_is_left();
    }
}

/// The system as the library wants it.
#[derive(Debug)]
pub struct Real<const TDX: bool>;

/// Pages, bindings and failures as the file tells them.
fn check_file(system: &System, state: &State, file: usize) {
    let f = state.owned(file).expect("called for such");
    let fd = system.fd(file);
    let stat = fd.stat().expect("STAT");
    let is = |want: Option<bool>| f.pages.iter().filter(|p| p.has_memory() == want).count() as u64;
    let (least, open) = (is(Some(true)), is(None));
    let failed = f.pages.iter().filter(|p| **p == Page::Failed).count() as u64;
    // The pages that a lost TD keeps have left the file.
    if !f.spoiled && !f.td.as_ref().is_some_and(|t| t.lost) {
        assert_eq!(
            stat.poisoned, failed,
            "failed pages of file {file}: {stat:?}"
        );
        assert!(
            (least..=least + open).contains(&stat.pages),
            "file {file} has {} pages, expected {least} to {}",
            stat.pages,
            least + open
        );
        let pfns = fd.pages(0..f.pages.len() as u64 * PAGE).expect("PAGES");
        for (n, (pfn, page)) in pfns.iter().zip(&f.pages).enumerate() {
            let right = match page.has_memory() {
                Some(has) => has == pfn.is_some(),
                None => true,
            };
            assert!(
                right,
                "page {n} of file {file} is {pfn:x?}, expected {page:?}"
            );
        }
    }
    let slots = state.slots_of(file).count() as u64;
    assert_eq!(stat.slots, slots, "memslots of file {file}");
}

impl System {
    fn act(&mut self, state: &State, op: &Op) {
        match op {
            Op::Create {
                file,
                pages,
                movable,
                node,
            } => {
                let kind = if *movable {
                    Mobility::Movable
                } else {
                    Mobility::Pinned
                };
                let mut options = Options::new(kind);
                options = node.iter().fold(options, |o, n| o.node(*n));
                let fd = self.device.create(*pages as u64 * PAGE, options);
                self.files[*file].fd = Some(fd.expect("CREATE"));
            }
            Op::Close { file } => {
                self.files[*file].td = None;
                self.files[*file].fd = None;
            }
            Op::Inherit { file } => {
                self.files[*file].child = Some(Child::holding(self.fd(*file).as_fd()));
            }
            Op::Reap { file } => self.files[*file].child = None,
            Op::Adopt { file } => {
                let child = self.files[*file].child.as_ref().expect("the model knows");
                self.files[*file].fd = Some(child.give_back());
            }
            Op::NewVm { vm } => self.guests[*vm] = Some(Guest::new(VmType::SwProtected)),
            Op::KillVm { vm } => self.guests[*vm] = None,
            Op::Bind { vm, slot, file, at } => {
                let fd = self.fd(*file).try_clone().expect("dup");
                let bound = self.guest(*vm).bind(*slot, fd.as_fd(), at);
                ended(bound, &state.expect, op);
            }
            Op::Unbind { vm, slot } => self.guest(*vm).unbind(*slot),
            Op::Convert {
                vm,
                slot,
                at,
                shared,
            } => self.guest(*vm).convert(*slot, at, *shared),
            Op::Prefault { vm, slot, at } => self.prefault(state, op, (*vm, *slot), at),
            Op::Write { vm, slot, at } => {
                let how = self.guest(*vm).write(*slot, at, state.serial);
                let want = match state.expect {
                    Expect::Fault(n, errno) => Some((n, errno)),
                    _ => None,
                };
                assert_eq!(how, want, "{op:?}: the page and the error where it stopped");
            }
            Op::Verify { vm, slot, at } => self.verify(state, *vm, *slot, at, true),
            Op::NewTd { .. }
            | Op::KillTd { .. }
            | Op::Accept { .. }
            | Op::Fill { .. }
            | Op::Check { .. } => td::act(self, state, op),
            Op::MoveWithFault { fault, .. } => {
                let _injected = td::inject(*fault);
                host::act(self, state, op);
            }
            _ => host::act(self, state, op),
        }
    }

    fn prefault(&mut self, state: &State, op: &Op, (vm, slot): (usize, usize), at: &Range<usize>) {
        let shared = &state.slot(vm, slot).expect("allowed").shared[at.clone()];
        let result = self.guest(vm).prefault(slot, at);
        // Only private memory is given beforehand.
        if shared.iter().any(|s| *s) {
            return;
        }
        ended(result, &state.expect, op);
    }

    /// Compares what a guest sees with the model. Where nothing has been written
    /// only if `touch`: it takes memory.
    pub fn verify(
        &mut self,
        state: &State,
        vm: usize,
        slot: usize,
        at: &Range<usize>,
        touch: bool,
    ) {
        let s = state.slot(vm, slot).expect("allowed");
        let guest = self.guests[vm].as_mut().expect("the model knows");
        for n in at.clone() {
            let (page, private) = state.seen(s, n);
            match page {
                Page::Absent | Page::Maybe if !touch => {}
                Page::Absent | Page::Maybe | Page::Zero => guest.is_zero(slot, n),
                Page::Filled(serial) => guest.holds(slot, n, serial),
                Page::Opaque => guest.touches(slot, n),
                Page::Failed => {
                    assert!(private, "only private memory fails here");
                    guest.fails(slot, n, libc::EHWPOISON);
                }
            }
        }
    }

    /// The memory blocks with pages of a file.
    pub fn block_of(&self, file: usize, page: usize) -> Option<Block> {
        let pfn = self
            .fd(file)
            .pages(bytes(&(page..page + 1)))
            .expect("PAGES")[0]?;
        let map = MemoryMap::read().expect("memory blocks");
        Some(map.block(map.block_of(pfn)))
    }
}
