// SPDX-License-Identifier: GPL-2.0
//! Warnings of the kernel.

use crate::ffi;

/// Logs a warning with a stack trace, as `WARN_ON()`, if the condition holds; whether it does.
pub(crate) fn warn_on(condition: bool) -> bool {
    // SAFETY: Has no preconditions.
    unsafe { ffi::privmemfd_helper_warn_on(condition) }
}
