// SPDX-License-Identifier: GPL-2.0
//! A VM with one vCPU, and what its guest does to whole pages.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use vmm::guest::{Entry, Field, ONCE, VERIFY, WRITE};
use vmm::layout::PRIVATE_BASE;
use vmm::{Exit, Vcpu, Vm, VmType};

use crate::model::SLOTS;
use crate::system::PAGE;

/// Guest addresses from one memslot to the next.
const STEP: u64 = 16 << 20;

/// A VM whose vCPU is idle.
pub struct Guest {
    vm: Vm,
    vcpu: Vcpu,
    /// Offset in the file of each memslot.
    offsets: [Option<u64>; SLOTS],
}

fn errno(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(0)
}

impl Guest {
    /// A VM without private memory.
    pub fn new(kind: VmType) -> Self {
        let vm = Vm::new(kind).expect("a VM");
        let vcpu = vm.vcpu(0).expect("a vCPU");
        Self {
            vm,
            vcpu,
            offsets: [None; SLOTS],
        }
    }

    fn gpa(slot: usize, page: usize) -> u64 {
        PRIVATE_BASE + slot as u64 * STEP + page as u64 * PAGE
    }

    fn range(slot: usize, at: &Range<usize>) -> Range<u64> {
        Self::gpa(slot, at.start)..Self::gpa(slot, at.end)
    }

    /// Binds pages of a file, private.
    pub fn bind(&mut self, slot: usize, fd: BorrowedFd<'_>, at: &Range<usize>) -> Result<(), i32> {
        let memory = Self::range(slot, &(0..at.len()));
        let offset = at.start as u64 * PAGE;
        let bound = self.vm.bind_private(slot as u32 + 1, memory, fd, offset);
        bound.map_err(|e| errno(&e))?;
        self.offsets[slot] = Some(offset);
        Ok(())
    }

    /// Takes the memslot away.
    pub fn unbind(&mut self, slot: usize) {
        self.vm.unbind(slot as u32 + 1).expect("unbind");
        self.offsets[slot] = None;
    }

    /// Takes all memslots away.
    pub fn unbind_all(&mut self) {
        for slot in (0..SLOTS)
            .filter(|s| self.offsets[*s].is_some())
            .collect::<Vec<_>>()
        {
            self.unbind(slot);
        }
    }

    /// Makes pages shared or private.
    pub fn convert(&self, slot: usize, at: &Range<usize>, shared: bool) {
        let at = Self::range(slot, at);
        let done = if shared {
            self.vm.set_shared(at)
        } else {
            self.vm.set_private(at)
        };
        done.expect("memory attributes");
    }

    /// Has KVM map pages that the guest has not used.
    pub fn prefault(&self, slot: usize, at: &Range<usize>) -> Result<(), i32> {
        self.vcpu
            .prefault(Self::range(slot, at))
            .map_err(|e| errno(&e))
    }

    /// Lets the guest go over pages. Contents belong to offsets in the file, so that
    /// every VM agrees on them.
    fn go(&mut self, slot: usize, at: &Range<usize>, serial: u32, flags: u64) -> (Exit, u64) {
        let memory = Self::range(slot, at);
        let offset = self.offsets[slot].expect("a bound memslot");
        let c = self.vcpu.control();
        let written = u64::from(flags & WRITE == 0);
        for (field, value) in [
            (Field::Stop, 0),
            (Field::Flags, flags | ONCE),
            (Field::Seed, u64::from(serial) << 32),
            (Field::Stride, 8),
            (Field::Start, memory.start),
            (Field::End, memory.end),
            (Field::Count, 1),
            (Field::Bias, Self::gpa(slot, 0).wrapping_sub(offset)),
            (Field::Started, written),
            (Field::Done, written),
            (Field::Mismatches, 0),
            (Field::BadAddress, 0),
        ] {
            c.set(field, value);
        }
        let address = c.address();
        let exit = self
            .vcpu
            .call(Entry::Loop, [address, 0, 0])
            .expect("KVM_RUN");
        (exit, self.vcpu.control().get(Field::Mismatches))
    }

    /// Writes whole pages; where that stopped and why.
    pub fn write(&mut self, slot: usize, at: &Range<usize>, serial: u32) -> Option<(usize, i32)> {
        match self.go(slot, at, serial, WRITE).0 {
            Exit::Done(_) => None,
            Exit::MemoryFault {
                gpa,
                private,
                errno,
                ..
            } => {
                assert!(private, "a fault of shared memory at {gpa:#x}");
                Some((((gpa - Self::gpa(slot, 0)) / PAGE) as usize, errno))
            }
            other => panic!("the guest ended with {other:?}"),
        }
    }

    /// Panics unless the page has what operation `serial` has written, all of it.
    pub fn holds(&mut self, slot: usize, n: usize, serial: u32) {
        let (exit, wrong) = self.go(slot, &(n..n + 1), serial, VERIFY);
        let c = self.vcpu.control();
        assert!(
            exit == Exit::Done(0) && wrong == 0,
            "page {n} of slot {slot} should have what operation {serial} wrote: {exit:?}, \
             {wrong} cells wrong, the first {:#x}, expected {:#x}",
            c.get(Field::BadGot),
            c.get(Field::BadWant),
        );
    }

    /// Panics unless the page is zero.
    pub fn is_zero(&mut self, slot: usize, n: usize) {
        let found = self.vcpu.count(Self::range(slot, &(n..n + 1)), 8);
        let found = found.expect("KVM_RUN");
        assert_eq!(
            found,
            Exit::Done(0),
            "words not zero in page {n} of slot {slot}"
        );
    }

    /// Panics unless the guest can read the page.
    pub fn touches(&mut self, slot: usize, n: usize) {
        let exit = self.vcpu.read(Self::gpa(slot, n)).expect("KVM_RUN");
        assert!(
            matches!(exit, Exit::Done(_)),
            "page {n} of slot {slot}: {exit:?}"
        );
    }

    /// Panics unless reading the page fails.
    pub fn fails(&mut self, slot: usize, n: usize, want: i32) {
        let exit = self.vcpu.read(Self::gpa(slot, n)).expect("KVM_RUN");
        let right = matches!(exit, Exit::MemoryFault { errno, private: true, .. } if errno == want);
        assert!(
            right,
            "page {n} of slot {slot} has failed, the guest sees {exit:?}"
        );
    }
}
