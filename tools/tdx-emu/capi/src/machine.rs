// SPDX-License-Identifier: GPL-2.0
//! The emulator's side: memory and platform services by C functions.

use std::ffi::{c_char, CStr};

use tdx_emu_model::log::CallRecord;
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

fn log(line: &CStr) {
    // SAFETY: The string is terminated and outlives the call.
    unsafe { tdx_machine_log(line.as_ptr()) };
}

/// Memory and services of the emulated machine.
pub(crate) struct Bus {
    memory: u64,
}

impl Bus {
    pub(crate) fn new(memory: u64) -> Self {
        Bus { memory }
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

    fn invept(&self, lp: usize, eptp: u64) {
        tdx_machine_invept(lp as u32, eptp);
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
