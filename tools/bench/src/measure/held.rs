// SPDX-License-Identifier: GPL-2.0
//! For how long mm is refused a page of a file while somebody takes others out of it.
//!
//! `migrate_folio` only tries the file's `invalidate_lock`. Here one thread asks for a move of a page
//! that stays, again and again, by `PRIVMEMFD_MOVE`, which waits for that lock: what it waits at
//! most is what mm would be refused for.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use privmemfd_bench::report::HeldUp;
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd};
use selftests::fixtures::{MIB, PAGE};
use selftests::tdx::pin_to;
use vmm::layout::PRIVATE_BASE;
use vmm::{Vm, VmType};

use super::pause::turns;
use super::{per_page, timed, Bench};

/// Of the file.
const SIZE: u64 = 64 * MIB;

/// A file that a VM has mapped all of.
fn mapped() -> anyhow::Result<(PrivMemFd, Vm)> {
    let fd = Device::open()?.create(SIZE, Options::new(Mobility::Movable))?;
    fd.allocate(0..SIZE)?;
    let vm = Vm::new(VmType::SwProtected)?;
    let memory = PRIVATE_BASE..PRIVATE_BASE + SIZE;
    vm.bind_private(1, memory.clone(), fd.as_fd(), 0)?;
    vm.vcpu(0)?.prefault(memory)?;
    Ok((fd, vm))
}

/// The longest that a move of the last page has taken while `work` went on with the others.
fn refused(
    what: &'static str,
    fd: &PrivMemFd,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<HeldUp> {
    let _turns = turns()?;
    let stop = AtomicBool::new(false);
    let last = SIZE - PAGE..SIZE;
    pin_to(0);
    let (took, longest) = thread::scope(|scope| -> anyhow::Result<_> {
        let mover = scope.spawn(|| -> anyhow::Result<f64> {
            pin_to(1);
            let mut longest = 0.0_f64;
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                fd.move_range(last.clone(), None)?;
                longest = longest.max(start.elapsed().as_nanos() as f64);
            }
            Ok(longest)
        });
        let done = timed(work);
        stop.store(true, Ordering::Relaxed);
        let longest = mover.join().expect("the mover has failed")?;
        Ok((done?.1, longest))
    })?;
    let pages = SIZE / PAGE - 1;
    Ok(HeldUp {
        what: what.into(),
        pages,
        longest,
        per_page: per_page(took, pages),
    })
}

/// A hole, and a VM that goes.
pub fn held(_: &mut Bench) -> anyhow::Result<Vec<HeldUp>> {
    let (fd, vm) = mapped()?;
    let punched = refused(
        "punching a hole",
        &fd,
        || Ok(fd.punch_hole(0..SIZE - PAGE)?),
    )?;
    drop((fd, vm));
    let (fd, vm) = mapped()?;
    let destroyed = refused("destroying a VM", &fd, || {
        drop(vm);
        Ok(())
    })?;
    Ok(vec![punched, destroyed])
}
