// SPDX-License-Identifier: GPL-2.0
//! The test cases.

mod bind;
mod calls;
mod counters;
pub mod faults;
mod finalize;
pub mod instructions;
mod interrupts;
mod life;
mod module;
mod moves;
mod pinned;
mod races;
mod removal;
mod states;
mod witness;

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use vm_memory::{Bytes, VolatileMemory};

use crate::guest::{Command, Control, Field, SHARED_ALIAS, SHARED_BIT};
use crate::tdx;
use crate::vm::{self, Memory, Provider, Td, Vcpu};

/// What to test with.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where private memory comes from.
    pub provider: Provider,
    /// Bytes of memory of a TD.
    pub size: u64,
    /// vCPUs of a TD.
    pub vcpus: u64,
    /// How often all memory is moved under the running TD.
    pub moves: u64,
}

/// How a case ended if nothing went wrong.
pub enum Outcome {
    /// It passed.
    Passed,
    /// It makes no sense here.
    Skipped(&'static str),
}

/// Counters by name.
pub type Counters = Vec<(&'static str, u64)>;
/// A test case.
pub type Case = fn(&Options, &mut Counters) -> io::Result<Outcome>;

/// The cases in their order.
pub const CASES: &[(&str, Case)] = &[
    ("capabilities", capabilities),
    ("instruction_faults", instructions::faults),
    ("init_vm", life::init_vm),
    ("vcpus", life::vcpus),
    ("boot", boot),
    ("exceptions", exceptions),
    ("guest_faults", instructions::guest_faults),
    (
        "interrupted_exceptions",
        instructions::interrupted_exceptions,
    ),
    ("read_only_page", instructions::read_only_page),
    ("spec_ctrl", instructions::spec_ctrl),
    ("private_memory", private_memory),
    ("pre_fault", life::pre_fault),
    ("unaccepted_page", unaccepted_page),
    ("report", module::report),
    ("runtime_registers", module::runtime_registers),
    ("fields", module::fields),
    ("tdcalls", module::refused),
    ("cpuid_as_told", module::cpuid_as_told),
    ("convert", convert),
    ("hypercalls", hypercalls),
    ("fatal_error", calls::fatal_error),
    ("port_io", calls::port_io),
    ("mmio", calls::mmio),
    ("msrs", calls::msrs),
    ("cpuid", calls::cpuid),
    ("user_space_calls", calls::user_space_calls),
    ("map_gpa", calls::map_gpa),
    ("unknown_calls", calls::unknown),
    ("halt", interrupts::halt),
    ("masked_interrupt", interrupts::masked),
    ("nmi", interrupts::nmi),
    ("shutdown", interrupts::shutdown),
    ("dead_vm", life::dead),
    ("slots", life::slots),
    ("binding", bind::binding),
    ("run", moves::run),
    ("move", moves::by_request),
    ("compact", moves::compact),
    ("offline", moves::offline),
    ("move_pending_pages", states::pending),
    ("move_before_finalize", states::not_finalized),
    ("finalize_raced", finalize::raced),
    ("interrupts_while_moving", interrupts::while_stacks_move),
    ("move_against_holes", races::holes),
    ("move_against_conversion", races::conversion),
    ("move_against_destruction", races::destruction),
    ("keyids_come_back", keyids),
    ("counters", counters::totals),
    ("unload", counters::unload),
];

/// The shortest test of pages that move.
pub const MOVES: &[(&str, Case)] = &[
    ("move", moves::by_request),
    ("move_pending_pages", states::pending),
    ("move_before_finalize", states::not_finalized),
    ("counters", counters::totals),
];

/// Cases that leave a TD behind which KVM cannot tear down.
pub const HARMFUL: &[(&str, Case)] = &[
    ("stray_access", stray_access),
    ("page_never_reclaimed", witness::page_never_reclaimed),
];

const STRAY: &str = "/sys/module/stray/parameters";

/// More than there are KeyIDs.
const TD_COUNT: u64 = 40;
const SPINS: u64 = 2000;
const CANNOT_MOVE: &str = "guest_memfd cannot move";
const NEEDS_TWO: Outcome = Outcome::Skipped("needs two vCPUs");

/// Wrong cells that guests have found.
static MISMATCHES: AtomicU64 = AtomicU64::new(0);

fn check(ok: bool, what: impl FnOnce() -> String) -> io::Result<()> {
    if ok {
        Ok(())
    } else {
        Err(io::Error::other(what()))
    }
}

fn equal<T: PartialEq + std::fmt::LowerHex>(what: &str, got: T, want: T) -> io::Result<()> {
    check(got == want, || format!("{what}: {got:#x}, not {want:#x}"))
}

/// A TD whose vCPUs wait for commands.
fn booted(o: &Options) -> io::Result<(Td, Vec<Vcpu>)> {
    let mut td = Td::new(o.provider, o.size, o.vcpus)?;
    let mut vcpus = td.take_vcpus();
    for v in &mut vcpus {
        v.run()?;
    }
    Ok((td, vcpus))
}

/// Each vCPU's share of the test memory.
fn part(td: &Td, o: &Options, id: u64) -> Range<u64> {
    let all = td.test_memory();
    let pages = (all.end - all.start) / 4096;
    let at = |n: u64| all.start + pages * n / o.vcpus * 4096;
    at(id)..at(id + 1)
}

fn no_mismatch(c: Control<'_>) -> io::Result<()> {
    MISMATCHES.fetch_add(c.get(Field::Mismatches), Relaxed);
    check(c.get(Field::Mismatches) == 0, || {
        format!(
            "{} wrong cells, the first at {:#x}: {:#x}, not {:#x}",
            c.get(Field::Mismatches),
            c.get(Field::BadAddress),
            c.get(Field::BadGot),
            c.get(Field::BadWant)
        )
    })
}

fn capabilities(_: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let types = vm::vm_types()?;
    check(types >> tdx::VM_TYPE & 1 != 0, || {
        format!("KVM_CAP_VM_TYPES {types:#x} has no TDX")
    })?;
    let kvm = kvm_ioctls::Kvm::new()?;
    let vm = kvm.create_vm_with_type(tdx::VM_TYPE)?;
    let caps = tdx::capabilities(&vm)?;
    check(caps.xfam & 3 == 3, || format!("XFAM {:#x}", caps.xfam))?;
    let leaves = caps.cpuid();
    println!(
        "# attributes {:#x}, xfam {:#x}, {} CPUID leaves",
        caps.attributes,
        caps.xfam,
        leaves.len()
    );
    check(leaves.iter().any(|e| e.function == 0x8000_0008), || {
        "leaf 0x80000008 is not configurable".into()
    })?;
    Ok(Outcome::Passed)
}

fn boot(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (_td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        let info = module::info(v)?;
        equal("address width", info.rcx, 48)?;
        equal("attributes", info.rdx, 0)?;
        equal("vCPUs", info.r8 & 0xFFFF_FFFF, o.vcpus)?;
        equal("index", info.r9, v.id())?;
    }
    Ok(Outcome::Passed)
}

fn exceptions(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    for v in &mut vcpus {
        let name = v.command(Command::Exceptions, [0; 3])?;
        equal("CPUID 0x21 EBX", name, 0x6574_6E49)?;
        let c = td.control(v.id());
        equal("exceptions", c.get(Field::Exceptions), 4)?;
        equal("reason of the last", c.get(Field::Reason), 30)?;
    }
    Ok(Outcome::Passed)
}

fn accept(td: &Td, o: &Options, v: &mut Vcpu) -> io::Result<()> {
    let at = part(td, o, v.id());
    let status = v.command(Command::Accept, [at.start, at.end, 0])?;
    equal("TDG.MEM.PAGE.ACCEPT", status, 0)
}

fn private_memory(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    let started = Instant::now();
    for v in &mut vcpus {
        accept(&td, o, v)?;
    }
    counters.push(("accept_ms", started.elapsed().as_millis() as u64));
    for v in &mut vcpus {
        let at = part(&td, o, v.id());
        v.command(Command::Fill, [at.start, at.end, 64])?;
    }
    // What one vCPU wrote the others see.
    let all = td.test_memory();
    for v in &mut vcpus {
        v.command(Command::Verify, [all.start, all.end, 64])?;
        let c = td.control(v.id());
        no_mismatch(c)?;
        equal("cells", c.get(Field::Cells), (all.end - all.start) / 64)?;
        let again = v.command(Command::Accept, [all.start, all.start + 4096, 0])?;
        equal("second accept", again, 0)?;
        equal("pages accepted already", c.get(Field::Already), 1)?;
    }
    Ok(Outcome::Passed)
}

fn unaccepted_page(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    let at = td.test_memory().start;
    let v = &mut vcpus[0];
    // First KVM gives the TD a page, then the guest is told to accept it.
    equal("content", v.command(Command::Read, [at + 8, 0, 0])?, 0)?;
    let c = td.control(0);
    equal("exceptions", c.get(Field::Exceptions), 1)?;
    equal("reason", c.get(Field::Reason), 48)?;
    equal("address", c.get(Field::Address), at + 8)?;
    Ok(Outcome::Passed)
}

fn convert(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    let v = &mut vcpus[0];
    let at = td.test_memory().start;
    let end = at + 4 * 4096;
    v.command(Command::Accept, [at, end, 0])?;
    v.command(Command::Fill, [at, end, 8])?;
    let to_shared = v.command(Command::MapGpa, [at | SHARED_BIT, end - at, 0])?;
    equal("MapGPA shared", to_shared, 0)?;
    for i in 0..4 {
        let host = td.shared().as_volatile_slice();
        let place = (at + 4096 * i) as usize;
        host.write_obj(0x5A5A + i, place)
            .map_err(io::Error::other)?;
        let alias = SHARED_ALIAS + at + 4096 * i;
        let seen = v.command(Command::Read, [alias, 0, 0])?;
        equal("the host's cell", seen, 0x5A5A + i)?;
        v.command(Command::Write, [alias + 8, 0xA5A5 + i, 0])?;
        let host = td.shared().as_volatile_slice();
        let back: u64 = host.read_obj(place + 8).map_err(io::Error::other)?;
        equal("the guest's cell", back, 0xA5A5 + i)?;
    }
    equal(
        "MapGPA private",
        v.command(Command::MapGpa, [at, end - at, 0])?,
        0,
    )?;
    equal("accept", v.command(Command::Accept, [at, end, 0])?, 0)?;
    equal("content", v.command(Command::Read, [at, 0, 0])?, 0)?;
    v.command(Command::Fill, [at, end, 8])?;
    v.command(Command::Verify, [at, end, 8])?;
    no_mismatch(td.control(0))?;
    Ok(Outcome::Passed)
}

fn hypercalls(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let (_td, mut vcpus) = booted(o)?;
    let started = Instant::now();
    equal("result", vcpus[0].command(Command::Spin, [SPINS, 0, 0])?, 0)?;
    counters.push(("hypercalls", SPINS));
    counters.push(("hypercalls_us", started.elapsed().as_micros() as u64));
    Ok(Outcome::Passed)
}

/// The host reads noise in a page of a TD; if it writes there the TD ends.
fn stray_access(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    let (td, mut vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(
            "guest_memfd does not tell where its pages are",
        ));
    };
    let v = &mut vcpus[0];
    let at = td.test_memory().start;
    let end = at + 4096;
    v.command(Command::Accept, [at, end, 0])?;
    v.command(Command::Fill, [at, end, 8])?;
    let cell = v.command(Command::Read, [at, 0, 0])?;
    let pages = file.pages(at..end).map_err(io::Error::other)?;
    let pfn = pages[0].ok_or_else(|| io::Error::other("no page"))?;
    std::fs::write(format!("{STRAY}/look"), pfn.to_string())?;
    let seen = std::fs::read_to_string(format!("{STRAY}/look"))?;
    println!(
        "# the guest wrote {cell:#x}, the host reads {}",
        seen.trim()
    );
    check(seen.trim() != cell.to_string(), || {
        "the host reads plain text".into()
    })?;
    v.command(Command::Verify, [at, end, 8])?;
    no_mismatch(td.control(0))?;
    std::fs::write(format!("{STRAY}/harm"), pfn.to_string())?;
    let end_of_td = v.command(Command::Verify, [at, end, 8]);
    check(end_of_td.is_err(), || {
        "the TD goes on with damaged memory".into()
    })?;
    println!("# after a write: {}", end_of_td.unwrap_err());
    Ok(Outcome::Passed)
}

fn keyids(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let small = Options {
        size: 2 << 20,
        vcpus: 1,
        ..*o
    };
    for _ in 0..TD_COUNT {
        let (_td, vcpus) = booted(&small)?;
        drop(vcpus);
    }
    counters.push(("tds_one_after_another", TD_COUNT));
    Ok(Outcome::Passed)
}
