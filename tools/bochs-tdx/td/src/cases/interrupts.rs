// SPDX-License-Identifier: GPL-2.0
//! vCPUs that halt, what wakes them, and how one ends.

use std::fs;
use std::io;
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_msi;
use kvm_ioctls::VcpuExit;

use super::calls::{call, leaf};
use super::counters::total;
use super::moves::while_looping;
use super::pinned::Pinned;
use super::races::while_moving;
use super::{booted, check, equal, module, Counters, Options, Outcome, CANNOT_MOVE, NEEDS_TWO};
use crate::guest::{Command, Field, Instruction, SelfInterrupt, INTERRUPT_VECTOR, STACKS_AND_IDT};
use crate::vm::{Exit, Memory, Td, Vcpu};

const X2APIC_SPURIOUS: u64 = 0x80F;
const X2APIC_COMMAND: u64 = 0x830;
const ENABLED: u64 = 0x1FF;
const NMI: u64 = 4 << 8;
const AWHILE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);
/// Pages that move while interrupts come.
const PAGES_MOVED: u64 = 1500;

/// Halts `v` until something wakes it: nothing does before `wake`, which does.
/// `blocked` is whether it takes no interrupts.
fn halted(mut v: Vcpu, blocked: bool, wake: impl FnOnce() -> io::Result<()>) -> io::Result<Vcpu> {
    let (done, halted) = channel();
    let thread = thread::spawn(move || {
        let c = v.control();
        for (field, value) in [Field::R12, Field::R13]
            .into_iter()
            .zip([blocked.into(), 0])
        {
            c.set(field, value);
        }
        let r = v.command(Command::CallHost, [0, leaf::HLT, u64::from(!blocked)]);
        // Nobody may be there any more.
        let _ = done.send(r.map(|status| (v, status)));
    });
    let early = halted.recv_timeout(AWHILE);
    let woken = wake();
    let (v, status) = match early {
        Err(RecvTimeoutError::Timeout) => halted
            .recv_timeout(PATIENCE)
            .map_err(|_| io::Error::other("a halted vCPU does not wake up"))??,
        Ok(Err(e)) => return Err(e),
        _ => return Err(io::Error::other("a vCPU does not halt")),
    };
    thread
        .join()
        .map_err(|_| io::Error::other("a vCPU's thread panicked"))?;
    woken?;
    equal("status of HLT", status, 0)?;
    Ok(v)
}

fn send_ipi(from: &mut Vcpu, to: u64, what: u64) -> io::Result<()> {
    let sent = call(from, leaf::WRMSR, [X2APIC_COMMAND, to << 32 | what, 0, 0])?;
    equal("status of the interrupt command", sent[0], 0)
}

fn send_msi(td: &Td, to: u64) -> io::Result<()> {
    let message = kvm_msi {
        address_lo: 0xFEE0_0000 | (to as u32) << 12,
        data: INTERRUPT_VECTOR as u32,
        ..Default::default()
    };
    let delivered = td.vm.signal_msi(message).map_err(io::Error::other)?;
    equal("vCPUs that got the message", delivered, 1)
}

/// A halted vCPU takes interrupts of another vCPU and of a device, and NMIs.
pub fn halt(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    if o.vcpus < 2 {
        return Ok(NEEDS_TWO);
    }
    let (td, mut vcpus) = booted(o)?;
    let mut other = vcpus.remove(1);
    let mut v = vcpus.remove(0);
    let (id, count) = (v.id(), |field| td.control(0).get(field));
    let on = call(&mut v, leaf::WRMSR, [X2APIC_SPURIOUS, ENABLED, 0, 0])?;
    equal("status", on[0], 0)?;

    v = halted(v, false, || send_ipi(&mut other, id, INTERRUPT_VECTOR))?;
    equal("interrupts", count(Field::Interrupts), 1)?;
    v = halted(v, false, || send_msi(&td, id))?;
    equal("interrupts", count(Field::Interrupts), 2)?;

    // Without interrupts: one that comes is taken later.
    v = halted(v, true, || {
        send_msi(&td, id)?;
        thread::sleep(AWHILE);
        equal("interrupts", count(Field::Interrupts), 2)?;
        send_ipi(&mut other, id, NMI)
    })?;
    equal("NMIs", count(Field::Nmis), 1)?;
    // It has not to wait for one then.
    v.control().set(Field::R12, 0);
    v.command(Command::CallHost, [0, leaf::HLT, 1])?;
    equal("interrupts", count(Field::Interrupts), 3)?;
    Ok(Outcome::Passed)
}

/// NMIs that come from user space while the vCPU does not run.
pub fn nmi(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        for n in 1..=3 {
            v.fd.nmi().map_err(io::Error::other)?;
            module::info(v)?;
            equal("NMIs", td.control(v.id()).get(Field::Nmis), n)?;
        }
    }
    Ok(Outcome::Passed)
}

/// Ticks of the host's timer on CPU 0.
fn ticks() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/interrupts")?;
    text.lines()
        .find_map(|line| line.trim_start().strip_prefix("LOC:"))
        .and_then(|counts| counts.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| io::Error::other("the host does not count its ticks"))
}

/// While a vCPU takes no interrupts the host gets its own (`fixes/0002`: they did not end the
/// vCPU's run), and an interrupt of the virtual APIC waits, also then (`fixes/0005`: it was
/// taken when the host was interrupted).
pub fn masked(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    const STEPS: u64 = 20_000_000;
    const TICKS: u64 = 10;
    let (_td, mut vcpus) = booted(o)?;
    let _pinned = Pinned::new(0)?;
    for v in &mut vcpus {
        let instruction = Instruction::MaskedInterrupt as u64;
        let before = ticks()?;
        let early = v.command(Command::Fault, [0, instruction, STEPS])?;
        let seen = ticks()? - before;
        check(seen >= TICKS, || format!("{seen} ticks of the host"))?;
        equal("interrupts too early", early, 0)?;
        equal("interrupts", v.control().get(Field::Interrupts), 1)?;
    }
    Ok(Outcome::Passed)
}

/// vCPUs that interrupt themselves all the time, while their stacks and the IDT move:
/// a delivery that finds one of them blocked is put off, and none is lost or made twice.
pub fn while_stacks_move(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    for (kind, counter) in [
        (SelfInterrupt::Ipi, "interrupts_while_moving"),
        (SelfInterrupt::Software, "software_interrupts_while_moving"),
    ] {
        let Some(number) = interrupted(o, kind)? else {
            return Ok(Outcome::Skipped(CANNOT_MOVE));
        };
        counters.push((counter, number));
    }
    Ok(Outcome::Passed)
}

/// Interrupts of one kind that all vCPUs have taken; `None` if nothing can move.
fn interrupted(o: &Options, kind: SelfInterrupt) -> io::Result<Option<u64>> {
    let (td, vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(None);
    };
    for v in &vcpus {
        v.control().set(Field::R12, kind as u64);
    }
    let ((), _) = while_looping(o, &td, vcpus, || {
        let end = total("tdx_relocated")? + PAGES_MOVED;
        let deadline = Instant::now() + PATIENCE;
        let ((), _) = while_moving(file, STACKS_AND_IDT, || {
            while total("tdx_relocated")? < end {
                check(Instant::now() < deadline, || "nothing moves".into())?;
                thread::sleep(AWHILE);
            }
            Ok(())
        })?;
        Ok(())
    })?;
    let mut all = 0;
    for id in 0..o.vcpus {
        let sent = td.control(id).get(Field::SelfInterrupts);
        equal("interrupts", td.control(id).get(Field::Interrupts), sent)?;
        check(sent > 0, || format!("vCPU {id} has sent none"))?;
        all += sent;
    }
    Ok(Some(all))
}

/// A triple fault ends a vCPU; the others go on.
pub fn shutdown(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (_td, mut vcpus) = booted(o)?;
    let mut last = vcpus.remove(0);
    let mut seen = false;
    let end = last.command_with(Command::ShutDown, [0; 3], |exit| {
        seen |= matches!(exit, Exit::Kvm(VcpuExit::Shutdown));
        Err(io::Error::other("the end"))
    });
    check(end.is_err() && seen, || format!("no shutdown: {end:?}"))?;
    for v in &mut vcpus {
        module::info(v)?;
    }
    Ok(Outcome::Passed)
}
