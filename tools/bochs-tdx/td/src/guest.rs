// SPDX-License-Identifier: GPL-2.0
//! What a TD executes: its image, its commands, and the control blocks in
//! shared memory through which they are given.
//!
//! ```text
//! 0x0000_1000  PML4, PDPT, page directories         \  private, part of the
//! 0x0000_8f00  GDTR, IDTR, GDT, TSS                 | measured image
//! 0x0000_9000  stacks, a page per vCPU              |
//! 0x0000_d000  page directories of shared memory    |
//! 0x0000_f000  IDT                                  |
//! 0x0001_0000  code                                /
//! 0x0010_0000  test memory, private until converted
//! 0x8000_0000  control blocks, shared
//! 0xFFFF_F000  reset page, private, in the image
//! ```
//!
//! Addresses from 0 to 4 GiB are mapped one to one. The 4 GiB from
//! [`SHARED_ALIAS`] on are the same addresses with the shared bit.

use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;

use vm_memory::{AtomicAccess, MmapRegion, VolatileMemory};

std::arch::global_asm!(include_str!("guest.s"), include_str!("handlers.s"));

extern "C" {
    static td_guest_boot: u8;
    static td_guest_main: u8;
    static td_guest_ve: u8;
    static td_guest_interrupt: u8;
    static td_guest_nmi: u8;
    static td_guest_ud: u8;
    static td_guest_gp: u8;
    static td_guest_pf: u8;
    static td_guest_software: u8;
    static td_guest_end: u8;
}

/// Bytes of the image at guest address 0.
pub const IMAGE_SIZE: u64 = 0x1_1000;
/// Test memory.
pub const MEMORY: u64 = 0x10_0000;
/// Control blocks.
pub const CONTROL: u64 = 0x8000_0000;
const CONTROL_STEP: u64 = 0x1000;
/// vCPUs that have a stack and a control block.
pub const MAX_VCPUS: u64 = 4;
/// Where a TD vCPU starts.
pub const RESET_PAGE: u64 = 0xFFFF_F000;
/// Bit of a guest physical address that means "shared" (48-bit TDs).
pub const SHARED_BIT: u64 = 1 << 47;
/// Linear addresses of shared memory.
pub const SHARED_ALIAS: u64 = 8 << 30;
/// Linear address that is mapped to a guest physical address wider than a TD's.
pub const TOO_WIDE: u64 = SHARED_ALIAS + (511 << 21);
/// A cell of the image that nothing uses.
pub const UNUSED: u64 = 0x8FF0;
/// Port on which the guest says that it has done its command.
pub const PORT: u16 = 0x100;
/// What an interrupt needs, but neither code nor page tables of private memory.
pub const STACKS_AND_IDT: Range<u64> = 0x9000..CODE;
const CODE: u64 = 0x1_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PRIVATE_PD: u64 = 0x3000;
const IDT: u64 = 0xF000;
const GDT: u64 = 0x8F20;
const TSS: u64 = 0x8F60;
const GDTR: u64 = 0x8F00;
const IDTR: u64 = 0x8F10;
const SHARED_PD: u64 = 0xD000;
const NMI_VECTOR: u64 = 2;
/// Invalid opcode.
pub const UD_VECTOR: u64 = 6;
/// General protection.
pub const GP_VECTOR: u64 = 13;
/// Page fault.
pub const PF_VECTOR: u64 = 14;
const VE_VECTOR: u64 = 20;
/// Vector of interrupts by an APIC.
pub const INTERRUPT_VECTOR: u64 = 0x40;
/// That of INT.
const SOFTWARE_VECTOR: u64 = 0x41;

/// What an address is multiplied by in `guest.s`.
const CELL: u64 = 0x9E37_79B9_7F4A_7C15;
// Also user mode's.
const TABLE: u64 = 0x27;
const LEAF: u64 = 0xE7;

fn code() -> &'static [u8] {
    let start = &raw const td_guest_boot;
    let len = &raw const td_guest_end as usize - start as usize;
    // SAFETY: both symbols bound one piece of read-only data of this program.
    unsafe { std::slice::from_raw_parts(start, len) }
}

fn offset(symbol: *const u8) -> usize {
    symbol as usize - &raw const td_guest_boot as usize
}

/// The content of guest memory from address 0.
pub fn image() -> Vec<u8> {
    let mut image = vec![0; IMAGE_SIZE as usize];
    let mut put = |at: u64, value: u64| {
        image[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(PML4, PDPT | TABLE);
    for gib in 0..4 {
        put(PDPT + 8 * gib, (PRIVATE_PD + 0x1000 * gib) | TABLE);
    }
    for i in 0..4 * 512 {
        put(PRIVATE_PD + 8 * i, i << 21 | LEAF);
    }
    // The first and the third GiB are all that is ever shared.
    put(PDPT + 8 * 8, SHARED_PD | TABLE);
    put(PDPT + 8 * 10, (SHARED_PD + 0x1000) | TABLE);
    for i in 0..512 {
        put(SHARED_PD + 8 * i, i << 21 | LEAF | SHARED_BIT);
        put(
            SHARED_PD + 0x1000 + 8 * i,
            (CONTROL + (i << 21)) | LEAF | SHARED_BIT,
        );
    }
    // In place of the last of the first GiB.
    put(SHARED_PD + 8 * 511, LEAF | SHARED_BIT << 1);
    // Code and data of ring 0, code and data of ring 3, the TSS below 64 KiB.
    let gdt = [
        0,
        0x00AF_9B00_0000_FFFF,
        0x00CF_9300_0000_FFFF,
        0x00AF_FB00_0000_FFFF,
        0x00CF_F300_0000_FFFF,
        0x0000_8900_0000_0067 | TSS << 16,
        0,
    ];
    for (i, entry) in (0..).zip(gdt) {
        put(GDT + 8 * i, entry);
    }
    put(GDTR, GDT << 16 | (8 * gdt.len() as u64 - 1));
    put(IDTR, IDT << 16 | 0xFFF);
    for (vector, handler) in [
        (NMI_VECTOR, &raw const td_guest_nmi),
        (UD_VECTOR, &raw const td_guest_ud),
        (GP_VECTOR, &raw const td_guest_gp),
        (PF_VECTOR, &raw const td_guest_pf),
        (VE_VECTOR, &raw const td_guest_ve),
        (INTERRUPT_VECTOR, &raw const td_guest_interrupt),
        (SOFTWARE_VECTOR, &raw const td_guest_software),
    ] {
        let at = CODE + (offset(handler) - offset(&raw const td_guest_main)) as u64;
        let gate = at & 0xFFFF | 8 << 16 | 0x8E00 << 32 | (at >> 16) << 48;
        put(IDT + 16 * vector, gate);
    }
    let main = &code()[offset(&raw const td_guest_main)..];
    image[CODE as usize..][..main.len()].copy_from_slice(main);
    image
}

/// The content of [`RESET_PAGE`].
pub fn reset_page() -> Vec<u8> {
    let mut page = vec![0; 4096];
    let boot = &code()[..offset(&raw const td_guest_main)];
    page[..boot.len()].copy_from_slice(boot);
    // jmp to the start of the page.
    page[0xFF0] = 0xE9;
    page[0xFF1..0xFF5].copy_from_slice(&(-0xFF5i32).to_le_bytes());
    page
}

/// The memory of a range as [`Command::Fill`] leaves it with a step of 8.
pub fn filled(range: Range<u64>) -> Vec<u8> {
    range
        .step_by(8)
        .flat_map(|at| at.wrapping_mul(CELL).to_le_bytes())
        .collect()
}

/// What the guest can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Command {
    /// TDG.MEM.PAGE.ACCEPT for a range.
    Accept = 1,
    /// Verify and rewrite a range until told to stop; if [`Field::R12`] is set, with
    /// a [`SelfInterrupt`] before each cell.
    Loop,
    /// Write a range once.
    Fill,
    /// Verify what Fill wrote.
    Verify,
    /// TDG.VP.VMCALL MapGPA.
    MapGpa,
    /// Execute what raises virtualization exceptions.
    Exceptions,
    /// Any TDCALL: leaf, RCX and RDX; R8 and R9 are [`Field::R12`] and [`Field::R13`]. What
    /// RCX, RDX, R8 and R9 are then is in [`Field::Back10`] to [`Field::Back13`].
    CallModule,
    /// Read the cell at a linear address.
    Read,
    /// Write the cell at a linear address.
    Write,
    /// Hypercalls that the kernel answers.
    Spin,
    /// CPUID: leaf and subleaf. [`Field::Back10`] to [`Field::Back13`] get EAX to EDX.
    Cpuid,
    /// Any TDG.VP.VMCALL.
    CallHost,
    /// An exception without an IDT.
    ShutDown,
    /// One [`Instruction`], at CPL 0 or 3; at CPL 0 with an operand.
    Fault,
}

/// How the guest interrupts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum SelfInterrupt {
    /// By its APIC, as from outside.
    Ipi = 1,
    /// By INT.
    Software,
}

/// What [`Command::Fault`] executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Instruction {
    Tdcall,
    Seamcall,
    Rdpmc,
    Vmcall,
    Vmxoff,
    Mwait,
    /// Reads the cell at the operand.
    Load,
    /// Toggles the operand's bits in EFER, and tells what is there then.
    Efer,
    /// Writes the operand to SPEC_CTRL.
    WriteSpecCtrl,
    ReadSpecCtrl,
    /// As many VMCALLs as the operand says.
    Vmcalls,
    /// With CR0.WP clear writes the operand to where it points; its page, of the first 4 GiB,
    /// is not writable. Tells the low byte of the page's entry.
    WriteReadOnly,
    /// Interrupts itself while it takes no interrupts, for as many steps as the operand says.
    /// Tells how many were taken by then.
    MaskedInterrupt,
}

/// Fields of a control block; `guest.s` and `handlers.s` have the same offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
#[allow(missing_docs)]
pub enum Field {
    Command = 0x00,
    /// First argument: mostly the start of a range.
    Start = 0x08,
    /// Second argument: mostly its end.
    End = 0x10,
    /// Third argument: bytes from one cell to the next.
    Step = 0x18,
    Result = 0x20,
    Stop = 0x28,
    Rounds = 0x30,
    Mismatches = 0x38,
    BadAddress = 0x40,
    BadGot = 0x48,
    BadWant = 0x50,
    /// Pages that Accept found accepted.
    Already = 0x58,
    /// Virtualization exceptions, and the last one's reason and address.
    Exceptions = 0x60,
    Reason = 0x68,
    Cells = 0x70,
    Address = 0x78,
    /// Registers that [`Command::CallHost`] passes...
    R12 = 0x80,
    R13 = 0x88,
    R14 = 0x90,
    R15 = 0x98,
    /// ... and those that come back.
    Back10 = 0xA0,
    Back11 = 0xA8,
    Back12 = 0xB0,
    Back13 = 0xB8,
    Back14 = 0xC0,
    Back15 = 0xC8,
    /// Interrupts taken, of either vector.
    Interrupts = 0xD0,
    Nmis = 0xD8,
    /// Interrupts that the guest has sent to itself.
    SelfInterrupts = 0xE0,
}

/// The control block of one vCPU.
#[derive(Debug, Clone, Copy)]
pub struct Control<'a> {
    memory: &'a MmapRegion,
    base: u64,
}

impl<'a> Control<'a> {
    /// The block of vCPU `id` in the memory at [`CONTROL`].
    pub fn new(memory: &'a MmapRegion, id: u64) -> Self {
        let base = id * CONTROL_STEP;
        Self { memory, base }
    }

    fn atomic(self, field: Field) -> &'a <u64 as AtomicAccess>::A {
        self.memory
            .get_atomic_ref(self.base as usize + field as usize)
            .expect("control blocks are mapped")
    }

    /// Reads a field.
    pub fn get(self, field: Field) -> u64 {
        self.atomic(field).load(SeqCst)
    }

    /// Writes a field.
    pub fn set(self, field: Field, value: u64) {
        self.atomic(field).store(value, SeqCst);
    }
}
