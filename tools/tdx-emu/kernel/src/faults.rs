// SPDX-License-Identifier: GPL-2.0

//! The fault plan as a file: see [`tdx_emu_model::fault_text`]. A delay is spent with interrupts off
//! before the call is carried out.

use crate::emulator::module;
use kernel::{
    fmt,
    prelude::*, //
};
use tdx_emu_model::fault_text::Bad;

/// Carries out what was written to the file, up to the first line that is not understood.
///
/// # Errors
///
/// `EINVAL`: such a line. `ENOSPC`: the plan is full.
pub(crate) fn apply(text: &str) -> Result {
    for line in text.lines() {
        match module().faults.apply(line) {
            Ok(()) => {}
            Err(Bad::Syntax) => {
                pr_warn!("not a fault rule: {line}\n");
                return Err(EINVAL);
            }
            Err(Bad::Full) => {
                pr_warn!("no room for another fault rule\n");
                return Err(ENOSPC);
            }
        }
    }
    Ok(())
}

/// The rules, and how often each has fired.
pub(crate) fn show(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    module().faults.write(f)
}
