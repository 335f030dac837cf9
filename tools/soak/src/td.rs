// SPDX-License-Identifier: GPL-2.0
//! TDs on the emulated TDX module.

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;

use selftests::starve::FailingCopies;
use selftests::tdx::emulator::{self, Faults};
use tdhost::uapi::TDXEMU_EVE;
use tdhost::{Command, Device, SeptState, Td};
use tdx_emu_model::regs::op;
use tdx_emu_model::status::{self, with_op};

use crate::model::{Fault, File, Op, Page, Sept, State, COPIES};
use crate::system::{bytes, ended, System, PAGE};

/// The vCPU that runs everything; the one that stays in the access that fails; the one
/// that uses a page which was not accepted, once, as it never asks why it had #VE.
const VCPU: u32 = 0;
const VICTIM: u32 = 1;
const NOVICE: u32 = 2;

/// A TD.
pub struct Domain {
    td: Td,
    /// The victim, and the novice, have had their access.
    used: [Cell<bool>; 2],
}

/// Lets moves go wrong as long as the result lives.
#[must_use = "nothing goes wrong any more when this is dropped"]
pub fn inject(fault: Fault) -> Box<dyn Any> {
    match fault {
        Fault::CopyFails => Box::new(FailingCopies::next(COPIES as u64)),
        _ => Box::new(Faults::inject(&rules(fault))),
    }
}

/// The emulator's rules for a fault.
fn rules(fault: Fault) -> String {
    let busy = with_op(status::OPERAND_BUSY, op::RCX);
    let refused = with_op(status::PAGE_METADATA_INCORRECT, op::R8);
    let once = |leaf, status| format!("{leaf} nth=1 status={status:#x}\n");
    let always = |leaf| format!("{leaf} nth=1 repeat=0 status={refused:#x}\n");
    match fault {
        Fault::BlockBusy => once("TDH.MEM.RANGE.BLOCK", busy),
        Fault::TrackBusy => once("TDH.MEM.TRACK", busy),
        Fault::RelocateBusy => once("TDH.MEM.PAGE.RELOCATE", busy),
        Fault::RelocateRefused => always("TDH.MEM.PAGE.RELOCATE"),
        Fault::BlockRefused => once("TDH.MEM.RANGE.BLOCK", refused),
        Fault::UnblockRefused => always("TDH.MEM.PAGE.RELOCATE") + &always("TDH.MEM.RANGE.UNBLOCK"),
        Fault::CopyFails => unreachable!("no rule of the emulator's"),
    }
}

/// Operations on the TD of a file.
pub fn act(system: &mut System, state: &State, op: &Op) {
    match op {
        Op::NewTd { file } => {
            let fd = system.fd(*file);
            let pages = state.owned(*file).expect("allowed").pages.len() as u64;
            let device = Device::open().expect("/dev/tdhost");
            let td = device.create(fd, pages, 3, true).expect("a TD");
            td.finalize().expect("finalize");
            system.files[*file].td = Some(Domain {
                td,
                used: Default::default(),
            });
        }
        Op::KillTd { file } => {
            system.files[*file].td = None;
            assert_eq!(emulator::stray_writes(), 0, "the host wrote to a TD's page");
        }
        Op::Accept { file, at } => {
            let done = each(system, state, *file, at, |page, td, at| {
                // What was accepted before is not in the state any more.
                let pending = td.td.sept(at.start).map(|s| s.state != SeptState::Mapped);
                let pending = pending.map_err(|e| e.raw_os_error().unwrap_or(0))?;
                match page {
                    Page::Failed => fails(td, at),
                    _ if pending => run(td, Command::Accept, at),
                    _ => Ok(()),
                }
            });
            ended(done, &state.expect, op);
        }
        Op::Fill { file, at } => {
            let serial = state.serial.into();
            let done = each(system, state, *file, at, |page, td, at| match page {
                Page::Filled(s) if u64::from(s) == serial => run(td, Command::Fill(serial), at),
                Page::Failed => fails(td, at),
                _ => Ok(()),
            });
            ended(done, &state.expect, op);
        }
        Op::Check { file, at } => {
            let lost = state
                .owned(*file)
                .and_then(|f| f.td.as_ref())
                .is_some_and(|t| t.lost);
            if !lost {
                check(system, state, *file, Some(at));
            }
        }
        _ => unreachable!("no operation of a TD's: {op:?}"),
    }
}

fn file_of(state: &State, file: usize) -> &File {
    state.owned(file).expect("allowed")
}

fn run(td: &Domain, command: Command, at: Range<u64>) -> Result<(), i32> {
    let report = td.td.run(VCPU, command, at.clone());
    let report = report.map_err(|e| e.raw_os_error().unwrap_or(0))?;
    assert_eq!(
        (report.code, report.mismatches),
        (0, 0),
        "{command:?} of {at:x?}: {report:x?}"
    );
    Ok(())
}

/// A page that has failed is an error for who runs the TD; once, as the vCPU stays
/// there.
fn fails(td: &Domain, at: Range<u64>) -> Result<(), i32> {
    if td.used[0].replace(true) {
        return Ok(());
    }
    let end = td.td.run(VICTIM, Command::Touch(1), at.clone());
    let errno = end.map(|r| r.code).map_err(|e| e.raw_os_error());
    assert_eq!(errno, Err(Some(libc::EHWPOISON)), "page {at:x?} has failed");
    Ok(())
}

/// Each page of a range, until one gives an error.
fn each(
    system: &System,
    state: &State,
    file: usize,
    at: &Range<usize>,
    act: impl Fn(Page, &Domain, Range<u64>) -> Result<(), i32>,
) -> Result<(), i32> {
    let td = system.files[file].td.as_ref().expect("the model knows");
    let f = file_of(state, file);
    if f.td.as_ref().is_some_and(|t| t.lost) {
        return run(td, Command::Touch(1), bytes(at));
    }
    at.clone()
        .try_for_each(|n| act(f.pages[n], td, bytes(&(n..n + 1))))
}

/// Compares what the TD has accepted with the model.
pub fn check(system: &System, state: &State, file: usize, at: Option<&Range<usize>>) {
    let td = system.files[file].td.as_ref().expect("the model knows");
    let f = file_of(state, file);
    let model = f.td.as_ref().expect("the model knows");
    if model.lost {
        assert!(
            td.td.is_dead(),
            "a page could not be given back, but the TD lives"
        );
        return;
    }
    assert!(!td.td.is_dead(), "the TD of file {file} is lost");
    for n in at.cloned().unwrap_or(0..f.pages.len()) {
        let memory = bytes(&(n..n + 1));
        let accepted = model.sept[n] == Sept::Accepted;
        let done = match f.pages[n] {
            Page::Filled(serial) if accepted => run(td, Command::Verify(serial.into()), memory),
            Page::Zero if accepted => {
                let words = [0, PAGE / 2, PAGE - 8].map(|o| td.td.read(memory.start + o).ok());
                assert_eq!(words, [Some(0); 3], "accepted page {n} of file {file}");
                Ok(())
            }
            Page::Failed => fails(td, memory),
            Page::Opaque if at.is_some() && !td.used[1].replace(true) => {
                let touched = td.td.run(NOVICE, Command::Touch(1), memory).map(|r| r.code);
                assert_eq!(touched.ok(), Some(TDXEMU_EVE), "page {n} was not accepted");
                Ok(())
            }
            _ => Ok(()),
        };
        assert_eq!(done, Ok(()), "page {n} of file {file}");
    }
    assert_eq!(emulator::stray_writes(), 0, "the host wrote to a TD's page");
    assert!(!emulator::is_dead(), "the TDX module has shut itself down");
}
