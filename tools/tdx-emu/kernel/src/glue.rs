// SPDX-License-Identifier: GPL-2.0

//! The C part as safe functions.
//!
//! C header: `glue.h`

use crate::ffi;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// A range of physical addresses: base and size.
pub(crate) type Range = (u64, u64);

/// Fills `ranges` with the System RAM, in order. Returns how many there are, which may be more.
///
/// Process context.
pub(crate) fn ram<const N: usize>(ranges: &mut [Range; N]) -> usize {
    let mut raw = [const { ffi::tdxemu_range { base: 0, size: 0 } }; N];
    // SAFETY: The array has as many elements as it is told.
    let n = unsafe { ffi::tdxemu_glue_ram(raw.as_mut_ptr(), N as u32) };
    for (to, from) in ranges.iter_mut().zip(raw) {
        *to = (from.base, from.size);
    }
    n as usize
}

/// Where physical address 0 is in the direct map.
pub(crate) fn direct_map() -> usize {
    // SAFETY: No preconditions.
    let base = unsafe { ffi::tdxemu_glue_direct_map() };
    base as usize
}

/// Width of physical addresses without KeyID bits.
pub(crate) fn phys_bits() -> u32 {
    // SAFETY: No preconditions.
    unsafe { ffi::tdxemu_glue_phys_bits() }
}

/// One more than the highest number of an online CPU.
pub(crate) fn cpus() -> usize {
    // SAFETY: No preconditions.
    let n = unsafe { ffi::tdxemu_glue_cpus() };
    n as usize
}

/// TSC ticks in a millisecond.
pub(crate) fn tsc_khz() -> u64 {
    // SAFETY: No preconditions.
    let khz = unsafe { ffi::tdxemu_glue_tsc_khz() };
    khz.into()
}

/// The time stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: Every 64-bit CPU has the instruction, and the kernel may always use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A random number.
pub(crate) fn random() -> u64 {
    // SAFETY: No preconditions.
    unsafe { ffi::tdxemu_glue_random() }
}

/// Busy wait.
pub(crate) fn delay(microseconds: u32) {
    // SAFETY: No preconditions.
    unsafe { ffi::tdxemu_glue_delay(microseconds) }
}

/// Keeps the module loaded until [`unpin`]; `false` if it is being unloaded.
pub(crate) fn pin() -> bool {
    // SAFETY: No preconditions.
    unsafe { ffi::tdxemu_glue_pin() }
}

/// Takes back a successful [`pin`].
///
/// The caller must run as part of something else that keeps the module there: an answer to
/// SEAMCALL, which unloading waits for.
pub(crate) fn unpin() {
    // SAFETY: The notifier chain runs under RCU, and unloading waits for a grace period after
    // the notifier is gone, so the code of the caller stays.
    unsafe { ffi::tdxemu_glue_unpin() }
}

/// While this exists SEAMCALL is answered.
pub(crate) struct Answering(());

impl Answering {
    /// Starts to answer. Process context.
    pub(crate) fn start() -> Result<Self> {
        // SAFETY: The notifier is not registered: there is one `Answering` at a time, in
        // `crate::emulator::SWITCH`.
        to_result(unsafe { ffi::tdxemu_glue_register() })?;
        Ok(Self(()))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // SAFETY: It is registered, as `self` exists.
        unsafe { ffi::tdxemu_glue_unregister() }
    }
}

/// Interrupts are off, as in the handler of an exception.
pub(crate) struct InTrap(());

impl InTrap {
    /// # Safety
    ///
    /// Interrupts must be off for as long as the value exists.
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }

    /// The CPU this runs on.
    pub(crate) fn cpu(&self) -> usize {
        // SAFETY: Nobody can move the caller, as interrupts are off.
        let cpu = unsafe { ffi::tdxemu_glue_cpu() };
        cpu as usize
    }

    /// Whether this CPU has an interrupt to take.
    pub(crate) fn interrupt_pending(&self) -> bool {
        // SAFETY: Interrupts are off, so the caller stays on the CPU whose interrupt controller
        // it reads.
        unsafe { ffi::tdxemu_glue_interrupt_pending() }
    }
}
