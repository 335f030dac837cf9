// SPDX-License-Identifier: GPL-2.0
//! The emulator's side: memory and platform services by C functions.

use std::collections::HashMap;
use std::ffi::{c_char, CStr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tdx_emu_model::log::CallRecord;
use tdx_emu_model::mem::{LINE, PAGE};
use tdx_emu_model::regs::leaf;
use tdx_emu_model::{Outcome, PhysMem, Platform};

use crate::c_string;

// The emulator defines all of these, takes any argument values and neither
// keeps the pointers nor unwinds.
unsafe extern "C" {
    safe fn tdx_machine_read(pa: u64) -> u64;
    safe fn tdx_machine_write(pa: u64, value: u64);
    safe fn tdx_machine_tsc(lp: u32) -> u64;
    safe fn tdx_machine_interrupt_pending(lp: u32) -> bool;
    safe fn tdx_machine_flush_page(pa: u64);
    /// EAX, EBX, ECX, EDX go to `out`.
    fn tdx_machine_cpuid(lp: u32, leaf: u32, sub: u32, out: *mut u32);
    safe fn tdx_machine_msr(lp: u32, index: u32) -> u64;
    safe fn tdx_machine_invept(lp: u32, eptp: u64);
    fn tdx_machine_log(line: *const c_char);
    fn tdx_machine_panic(message: *const c_char);
}

/// Ends the emulation.
pub(crate) fn panic(message: &str) -> ! {
    let message = c_string(message);
    // SAFETY: The string is terminated and outlives the call.
    unsafe { tdx_machine_panic(message.as_ptr()) };
    std::process::abort();
}

pub(crate) fn log(line: &CStr) {
    // SAFETY: The string is terminated and outlives the call.
    unsafe { tdx_machine_log(line.as_ptr()) };
}

/// Lines of a page.
const LINES: usize = (PAGE / LINE) as usize;

/// What the machine has besides its memory.
#[derive(Default)]
struct State {
    /// Integrity tags of the pages that have any.
    tags: HashMap<u64, [u64; LINES]>,
    /// The last random number.
    random: u64,
}

/// Memory and services of the emulated machine.
pub(crate) struct Bus {
    memory: u64,
    has_tags: bool,
    state: Mutex<State>,
}

const fn place(line: u64) -> (u64, usize) {
    (line / PAGE, (line % PAGE / LINE) as usize)
}

impl Bus {
    pub(crate) fn new(memory: u64, has_tags: bool) -> Self {
        Bus {
            memory,
            has_tags,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PhysMem for Bus {
    fn read(&self, pa: u64) -> u64 {
        if pa < self.memory {
            tdx_machine_read(pa)
        } else {
            u64::MAX
        }
    }

    fn write(&self, pa: u64, value: u64) {
        if pa < self.memory {
            tdx_machine_write(pa, value);
        }
    }

    // Nothing comes in between: there is one thread.
    fn cas(&self, pa: u64, old: u64, new: u64) -> Result<(), u64> {
        match self.read(pa) {
            now if now == old => {
                self.write(pa, new);
                Ok(())
            }
            now => Err(now),
        }
    }

    fn has_tags(&self) -> bool {
        self.has_tags
    }

    fn tag(&self, line: u64) -> u64 {
        // What the caches hold changes the tag on its way to memory.
        tdx_machine_flush_page(line);
        let (page, i) = place(line);
        self.state().tags.get(&page).map_or(0, |t| t[i])
    }

    fn set_tag(&self, line: u64, tag: u64) {
        let (page, i) = place(line);
        let tags = &mut self.state().tags;
        if tag != 0 {
            tags.entry(page).or_insert([0; LINES])[i] = tag;
        } else if let Some(t) = tags.get_mut(&page) {
            t[i] = 0;
            if t.iter().all(|t| *t == 0) {
                tags.remove(&page);
            }
        }
    }
}

/// Leaves that are too frequent for the log while they succeed.
fn frequent(leaf: u16) -> bool {
    matches!(leaf, leaf::VP_ENTER | leaf::SYS_TDMR_INIT | leaf::SYS_RD)
}

impl Platform for Bus {
    fn tsc(&self, lp: usize) -> u64 {
        tdx_machine_tsc(lp as u32)
    }

    fn interrupt_pending(&self, lp: usize) -> bool {
        tdx_machine_interrupt_pending(lp as u32)
    }

    fn flush_page(&self, pa: u64, _hkid: u16) {
        tdx_machine_flush_page(pa);
    }

    // The sequence of SplitMix64: runs can be repeated.
    fn random(&self) -> Option<u64> {
        let state = &mut self.state().random;
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (*state ^ *state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        Some(z ^ z >> 31)
    }

    fn invept(&self, lp: usize, eptp: u64) {
        tdx_machine_invept(lp as u32, eptp);
    }

    fn cpuid(&self, lp: usize, leaf: u32, sub: u32) -> [u32; 4] {
        let mut out = [0; 4];
        // SAFETY: There is room for the four registers.
        unsafe { tdx_machine_cpuid(lp as u32, leaf, sub, out.as_mut_ptr()) };
        out
    }

    fn msr(&self, lp: usize, index: u32) -> u64 {
        tdx_machine_msr(lp as u32, index)
    }

    fn sha512_block(&self, state: &mut [u64; 8], block: &[u8; 128]) {
        sha2::compress512(state, &[(*block).into()]);
    }

    fn log(&self, record: &CallRecord) {
        let good = record.outcome == Outcome::Entered || record.output.rax == 0;
        if good && frequent(record.input.rax as u16) {
            return;
        }
        let mut line = String::new();
        if record.write(&mut line, "host", 0).is_ok() {
            log(&c_string(&line));
        }
    }
}
