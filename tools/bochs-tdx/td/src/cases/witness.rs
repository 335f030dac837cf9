// SPDX-License-Identifier: GPL-2.0
//! What KVM does that a TD cannot see, as `tdxwitness.ko` sees it, and what does not happen
//! unless that module brings it about.

use std::fs;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use kvm_ioctls::Kvm;

use super::bind::{self, bind_to};
use super::faults::{kept, move_all, reuse, while_failing};
use super::moves::while_looping;
use super::removal::{not_removed, pages, punch};
use super::{booted, check, equal, module, Counters, Options, Outcome, CANNOT_MOVE};
use crate::guest::{self, Field, SelfInterrupt};
use crate::vm::{movable, Memory, Td};

const PARAMETERS: &str = "/sys/module/tdxwitness/parameters";
/// How much longer the calls last that nothing may come between, in us.
const LINGER: u64 = 100;
/// TDs that are built meanwhile, and pages that are measured of each.
const BUILT: u64 = 4;
const ADDED: u64 = 16;

fn read(name: &str) -> io::Result<i64> {
    let text = fs::read_to_string(format!("{PARAMETERS}/{name}"))?;
    text.trim().parse().map_err(io::Error::other)
}

fn write(name: &str, value: u64) -> io::Result<()> {
    fs::write(format!("{PARAMETERS}/{name}"), value.to_string())
}

/// Has a parameter be 1 while `f` goes on.
fn with<T>(name: &str, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    write(name, 1)?;
    let result = f();
    write(name, 0)?;
    result
}

/// A notification of posted interrupts that finds none does nothing (`fixes/0007`: the guest
/// got an interrupt with vector 0xFF). The vCPUs take interrupts all the time.
pub fn notified_for_nothing(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    const NOTIFICATIONS: u64 = 50;
    let (td, vcpus) = booted(o)?;
    for v in &vcpus {
        v.control().set(Field::R12, SelfInterrupt::Software as u64);
    }
    while_looping(o, &td, vcpus, || {
        for _ in 0..NOTIFICATIONS {
            write("notify", 1)?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    })?;
    for c in (0..o.vcpus).map(|id| td.control(id)) {
        let own = c.get(Field::SelfInterrupts);
        equal("interrupts", c.get(Field::Interrupts), own)?;
    }
    Ok(Outcome::Passed)
}

/// One TD is built while pages of it move that are in another file: nothing but KVM's own lock
/// keeps those from meeting what takes the TDR.
fn build_while_moving(o: &Options) -> io::Result<()> {
    let mut td = Td::not_finalized(o.provider, o.size, o.vcpus)?;
    let file = movable(bind::SIZE)?;
    let memory = Memory::Privmemfd(file.try_clone()?);
    td.bind_file(5, bind::HERE, &memory, 0)?;
    let add = |at: Range<u64>| {
        let mut all = at.step_by(4096);
        all.try_for_each(|page| td.add_initial(page, &guest::filled(page..page + 4096)))
    };
    add(bind::HERE)?;
    let start = td.test_memory().start;
    let added = start..start + ADDED * 4096;
    let stop = AtomicBool::new(false);
    let moved = thread::scope(|s| {
        let mover = s.spawn(|| -> io::Result<u64> {
            let mut moved = 0;
            while !stop.load(SeqCst) {
                moved += file
                    .move_range(0..bind::SIZE, None)
                    .map_err(io::Error::other)?;
            }
            Ok(moved)
        });
        let built = add(added.clone()).and_then(|()| td.finalize());
        stop.store(true, SeqCst);
        let moved = mover.join();
        built?;
        moved.map_err(|_| io::Error::other("a thread panicked"))?
    })?;
    check(moved > 0, || "nothing moved".into())?;
    for v in &mut td.take_vcpus() {
        v.run()?;
        bind::verify(v, &bind::HERE)?;
        bind::verify(v, &added)?;
    }
    Ok(())
}

/// What takes the TDR for exclusive use while a TD is built does not meet a move of its pages.
pub fn exclusive_calls(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let [calls, overlaps, moves] = [
        read("exclusive")?,
        read("overlaps")?,
        read("provider_calls")?,
    ];
    write("linger_us", LINGER)?;
    let built = (0..BUILT).try_for_each(|_| build_while_moving(o));
    write("linger_us", 0)?;
    built?;
    let calls = read("exclusive")? - calls;
    let moves = read("provider_calls")? - moves;
    println!("# {calls} calls of TDH.MR.EXTEND and TDH.MR.FINALIZE, {moves} moves");
    check(calls > 0, || "nothing took the TDR".into())?;
    equal("moves during them", read("overlaps")? - overlaps, 0)?;
    Ok(Outcome::Passed)
}

/// Before the provider's SEAMCALLs comes one of the kernel's, and nothing comes between.
pub fn provider_calls(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let before = read("provider_calls")?;
    while_looping(o, &td, vcpus, || move_all(file))?;
    check(read("provider_calls")? > before, || {
        "the provider was not called".into()
    })?;
    // In all cases up to here.
    equal("moves that were not prepared", read("unprepared")?, 0)?;
    Ok(Outcome::Passed)
}

/// Pages of a TD stay where they are once the host reboots, and nothing else happens to them.
pub fn rebooting_host(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let calls = read("provider_calls")?;
    while_looping(o, &td, vcpus, || {
        let moved = with("rebooting", || move_all(file))?;
        equal("pages moved by a host that reboots", moved.moved, 0)?;
        check(moved.stayed > 0, || "there were no pages".into())?;
        equal("calls of the provider", read("provider_calls")?, calls)?;
        let moved = move_all(file)?;
        equal("pages that stay", moved.stayed, 0)
    })?;
    Ok(Outcome::Passed)
}

/// KVM tells the architecture of each page that leaves a VM which is no TD.
pub fn invalidations(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    const PROTECTED_VM: u64 = 1;
    let before = read("invalidations")?;
    if before < 0 {
        return Ok(Outcome::Skipped("this KVM tells the architecture nothing"));
    }
    let (td, _vcpus) = booted(o)?;
    let vm = Kvm::new()
        .and_then(|kvm| kvm.create_vm_with_type(PROTECTED_VM))
        .map_err(io::Error::other)?;
    let file = movable(bind::SIZE)?;
    file.allocate(0..bind::SIZE)?;
    let file = Memory::Privmemfd(file);
    bind_to(&vm, &td, &file)?;
    bind::moved(&file, pages(&bind::HERE))?;
    let told = read("invalidations")? - before;
    equal("pages told of", told as u64, pages(&bind::HERE))?;
    Ok(Outcome::Passed)
}

/// A hole while SEAMCALL faults, as the host reboots.
pub fn hole_while_rebooting(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    not_removed(o, pages(&bind::HERE), |td, file| {
        with("rebooting", || with("faulting", || punch(td, file)))
    })
}

/// The mirror page table has another page than the file: KVM has a bug.
pub fn page_elsewhere(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let before = file.pages(0..o.size)?;
    write("exchange", 1)?;
    let moved = move_all(file)?;
    equal("lists still to be exchanged", read("exchange")?, 0)?;
    equal("pages moved", moved.moved, 0)?;
    kept(&before, 0)?;
    let run = module::info(&mut vcpus[0]);
    let e = run.err().and_then(|e| e.raw_os_error());
    equal("errno of a vCPU", e.unwrap_or(0), libc::EIO)?;
    let file = file.try_clone()?;
    drop(vcpus);
    drop(td);
    reuse(o, file)?;
    Ok(Outcome::Passed)
}

/// A page that the module does not give back even when its TD is torn down: nobody gets it.
pub fn page_never_reclaimed(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    let file = movable(bind::SIZE)?;
    let memory = Memory::Privmemfd(file.try_clone()?);
    td.bind_file(5, bind::HERE, &memory, 0)?;
    bind::use_memory(&mut vcpus[0], &bind::HERE)?;
    let before = file.pages(0..bind::SIZE)?;
    let all = pages(&bind::HERE);
    let fatal = "TDH.MEM.RANGE.BLOCK nth=1 repeat=0 status=0xe000060400000000";
    while_failing(fatal, counters, || punch(&td, &file))?;
    kept(&before, all)?;
    let refused = "TDH.PHYMEM.PAGE.RECLAIM nth=1 repeat=0 status=0xc000010000000001";
    while_failing(refused, counters, || {
        drop(vcpus);
        drop(memory);
        drop(td);
        Ok(())
    })?;
    kept(&before, all)?;
    Ok(Outcome::Passed)
}
