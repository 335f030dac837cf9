// SPDX-License-Identifier: GPL-2.0
//! Memory moves all the time while KVM takes it from the TD.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use privmemfd_ioctls::PrivMemFd;

use super::counters::total;
use super::moves::while_looping;
use super::{
    accept, booted, check, equal, no_mismatch, part, Counters, Options, Outcome, CANNOT_MOVE,
};
use crate::guest::{Command, Field, SHARED_BIT};
use crate::vm::{Memory, Vcpu};

const ROUNDS: u64 = 12;
/// Pages that are taken away in each round.
const PAGES: u64 = 128;
const DESTRUCTIONS: u64 = 8;
/// The n-th TD is destroyed after n times as many relocations.
const HEAD_START: u64 = 50;

/// Moves a part of a file again and again while `f` goes on. The result has how many
/// pages were relocated in a TD meanwhile.
pub fn while_moving<T>(
    file: &PrivMemFd,
    part: Range<u64>,
    f: impl FnOnce() -> io::Result<T>,
) -> io::Result<(T, u64)> {
    let before = total("tdx_relocated")?;
    let stop = AtomicBool::new(false);
    let result = thread::scope(|s| {
        let mover = s.spawn(|| {
            while !stop.load(Relaxed) {
                match file.move_range(part.clone(), None) {
                    Err(e) if !matches!(e.errno(), libc::EAGAIN | libc::EBUSY) => return Err(e),
                    _ => {}
                }
            }
            Ok(())
        });
        let result = f();
        stop.store(true, Relaxed);
        mover
            .join()
            .map_err(|_| io::Error::other("the mover panicked"))?
            .map_err(io::Error::other)?;
        result
    })?;
    Ok((result, total("tdx_relocated")? - before))
}

/// vCPU 0 uses its memory and `take` takes it away, round after round; the other
/// vCPUs verify theirs. Counts, by these names, the pages taken and those
/// relocated meanwhile.
fn against(
    o: &Options,
    counters: &mut Counters,
    names: [&'static str; 2],
    mut take: impl FnMut(&PrivMemFd, &mut Vcpu, Range<u64>) -> io::Result<()>,
) -> io::Result<Outcome> {
    let (td, mut others) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let mut first = others.remove(0);
    let mut at = part(&td, o, 0);
    at.end = at.end.min(at.start + PAGES * 4096);
    let mut taken = 0;
    let (((), relocated), _) = while_looping(o, &td, others, || {
        while_moving(file, 0..file.stat()?.size, || {
            for _ in 0..ROUNDS {
                let status = first.command(Command::Accept, [at.start, at.end, 0])?;
                equal("TDG.MEM.PAGE.ACCEPT", status, 0)?;
                first.command(Command::Fill, [at.start, at.end, 64])?;
                first.command(Command::Verify, [at.start, at.end, 64])?;
                let c = first.control();
                no_mismatch(c)?;
                equal("pages that were not taken", c.get(Field::Already), 0)?;
                take(file, &mut first, at.clone())?;
                taken += (at.end - at.start) / 4096;
            }
            Ok(())
        })
    })?;
    counters.push((names[0], taken));
    counters.push((names[1], relocated));
    check(relocated > 0, || "nothing moved meanwhile".into())?;
    Ok(Outcome::Passed)
}

/// Against holes in the file.
pub fn holes(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let names = ["hole_pages", "holes_relocated_pages"];
    against(o, counters, names, |file, _, at| Ok(file.punch_hole(at)?))
}

/// Against conversion to shared and back.
pub fn conversion(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let names = ["converted_pages", "conversion_relocated_pages"];
    against(o, counters, names, |_, v, at| {
        let size = at.end - at.start;
        let shared = v.command(Command::MapGpa, [at.start | SHARED_BIT, size, 0])?;
        equal("MapGPA shared", shared, 0)?;
        let private = v.command(Command::MapGpa, [at.start, size, 0])?;
        equal("MapGPA private", private, 0)
    })
}

/// Against the end of the VM.
pub fn destruction(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let mut relocated = 0;
    for n in 0..DESTRUCTIONS {
        let (td, mut vcpus) = booted(o)?;
        let Memory::Privmemfd(file) = &td.memory else {
            return Ok(Outcome::Skipped(CANNOT_MOVE));
        };
        let file = file.try_clone()?;
        for v in &mut vcpus {
            accept(&td, o, v)?;
            let at = part(&td, o, v.id());
            v.command(Command::Fill, [at.start, at.end, 64])?;
        }
        let begin = total("tdx_relocated")?;
        let ((), moved) = while_moving(&file, 0..file.stat()?.size, || {
            let deadline = Instant::now() + Duration::from_secs(60);
            while total("tdx_relocated")? - begin <= n * HEAD_START {
                check(Instant::now() < deadline, || "nothing moves".into())?;
                thread::sleep(Duration::from_millis(1));
            }
            drop(vcpus);
            drop(td);
            Ok(())
        })?;
        relocated += moved;
        let stat = file.stat()?;
        equal("VMs of the file", stat.vms, 0)?;
        file.punch_hole(0..stat.size)?;
        equal("pages left", file.stat()?.pages, 0)?;
    }
    counters.push(("tds_destroyed_while_moving", DESTRUCTIONS));
    counters.push(("destruction_relocated_pages", relocated));
    Ok(Outcome::Passed)
}
