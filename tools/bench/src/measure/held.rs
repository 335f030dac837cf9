// SPDX-License-Identifier: GPL-2.0
//! For how long mm is refused a page of a file while somebody takes others out of it.
//!
//! `migrate_folio` only tries the file's `invalidate_lock`. Here one thread asks for a move of a page
//! that stays, again and again, by `PRIVMEMFD_MOVE`, which waits for that lock: what it waits at
//! most is what mm would be refused for.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use privmemfd_bench::report::HeldUp;
use privmemfd_ioctls::PrivMemFd;
use selftests::fixtures::{MIB, PAGE};
use selftests::tdx::pin_to;
use vmm::layout::PRIVATE_BASE;
use vmm::{Vm, VmType};

use super::growth::populated;
use super::pause::turns;
use super::{per_page, timed, Bench};

/// MiB of the file. mm is to be refused for as long, however large it is.
const FILES: [u64; 2] = [64, 256];
const SLOT: u32 = 1;

/// A file that a VM has mapped all of.
fn mapped(size: u64) -> anyhow::Result<(PrivMemFd, Vm)> {
    let fd = populated(size)?;
    let vm = Vm::new(VmType::SwProtected)?;
    let memory = PRIVATE_BASE..PRIVATE_BASE + size;
    vm.bind_private(SLOT, memory.clone(), fd.as_fd(), 0)?;
    vm.vcpu(0)?.prefault(memory)?;
    Ok((fd, vm))
}

/// What is done with all pages of a file but the last. The VM that has mapped them may go.
type Work = fn(&PrivMemFd, &mut Option<Vm>, u64) -> anyhow::Result<()>;

const WORKS: [(&str, Work); 3] = [
    ("punching a hole", |fd, _, size| {
        Ok(fd.punch_hole(0..size - PAGE)?)
    }),
    ("deleting a memslot", |_, vm, _| match vm {
        Some(vm) => Ok(vm.unbind(SLOT)?),
        None => Ok(()),
    }),
    ("destroying a VM", |_, vm, _| {
        drop(vm.take());
        Ok(())
    }),
];

/// The longest that a move of this page has taken while `work` went on, and for how long that had
/// a CPU.
fn beside(
    fd: &PrivMemFd,
    page: Range<u64>,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<(f64, Duration)> {
    let _turns = turns()?;
    let stop = AtomicBool::new(false);
    pin_to(0);
    thread::scope(|scope| {
        let mover = scope.spawn(|| -> anyhow::Result<f64> {
            pin_to(1);
            let mut longest = 0.0_f64;
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                fd.move_range(page.clone(), None)?;
                longest = longest.max(start.elapsed().as_nanos() as f64);
            }
            Ok(longest)
        });
        let done = timed(work);
        stop.store(true, Ordering::Relaxed);
        let longest = mover.join().expect("the mover has failed")?;
        Ok((longest, done?.1))
    })
}

fn refused(what: &'static str, size: u64, work: Work) -> anyhow::Result<HeldUp> {
    let (fd, vm) = mapped(size)?;
    let mut vm = Some(vm);
    let (longest, took) = beside(&fd, size - PAGE..size, || work(&fd, &mut vm, size))?;
    drop((fd, vm));
    // A page that this has nothing to do with: the CPUs take turns, and one whose interrupts are off
    // is not interrupted.
    let other = populated(PAGE)?;
    let (fd, vm) = mapped(size)?;
    let mut vm = Some(vm);
    let (elsewhere, _) = beside(&other, 0..PAGE, || work(&fd, &mut vm, size))?;
    let pages = size / PAGE - 1;
    Ok(HeldUp {
        what: what.into(),
        pages,
        longest,
        elsewhere,
        per_page: per_page(took, pages),
    })
}

/// A hole, a memslot that goes, and a VM.
pub fn held(_: &mut Bench) -> anyhow::Result<Vec<HeldUp>> {
    let mut all = Vec::new();
    for size in FILES.map(|mib| mib * MIB) {
        for (what, work) in WORKS {
            all.push(refused(what, size, work)?);
        }
    }
    Ok(all)
}
