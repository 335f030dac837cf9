// SPDX-License-Identifier: GPL-2.0

//! What the current task may do.
//!
//! C header: [`include/linux/capability.h`](srctree/include/linux/capability.h)

use crate::ffi;
use kernel::bindings;

/// Tells whether the current task has `CAP_SYS_ADMIN` in the initial user namespace.
///
/// Process context.
pub fn sys_admin() -> bool {
    // SAFETY: Has no preconditions but process context.
    unsafe { ffi::privmemfd_helper_capable(bindings::CAP_SYS_ADMIN as i32) }
}
