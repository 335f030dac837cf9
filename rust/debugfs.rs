// SPDX-License-Identifier: GPL-2.0

//! Numbers that people can read in debugfs.
//!
//! `kernel::debugfs` gives its files no owner: one that somebody has open does not keep the module,
//! and is closed through a table that is gone with it. The files here pin the module while they
//! are open.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use crate::ffi;
use kernel::{
    bindings,
    prelude::*, //
};

/// A directory at the top of debugfs, with all its files. Removed when it is dropped, which waits
/// for whoever reads one of them.
///
/// If debugfs cannot show it, it is not there, and nothing else changes.
pub struct Dir(*mut bindings::dentry);

// SAFETY: debugfs has locks of its own.
unsafe impl Send for Dir {}
// SAFETY: As above.
unsafe impl Sync for Dir {}

impl Dir {
    /// Makes it. May sleep.
    pub fn new(name: &CStr) -> Self {
        // SAFETY: The name is a C string, of which debugfs makes a copy.
        Self(unsafe { ffi::privmemfd_helper_debugfs_create_dir(name.as_char_ptr()) })
    }

    /// Adds a file with a number, which `read` gives. Everybody who may look into debugfs can read
    /// it. May sleep.
    ///
    /// `read` is called in process context.
    pub fn number(&self, name: &CStr, read: extern "C" fn() -> u64) {
        // SAFETY: The directory is there until `self` is dropped, or it is an error, which debugfs
        // knows. The name is copied; the function is part of a module that files pin.
        unsafe {
            ffi::privmemfd_helper_debugfs_create_number(name.as_char_ptr(), self.0, Some(read))
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: Nobody else removes it. An error is ignored.
        unsafe { ffi::privmemfd_helper_debugfs_remove(self.0) }
    }
}
