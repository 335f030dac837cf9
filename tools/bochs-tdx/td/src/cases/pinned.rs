// SPDX-License-Identifier: GPL-2.0
//! Threads of the VMM that have to run where they are.

use std::io;
use std::mem;

/// The calling thread stays on one CPU, until this is dropped.
pub struct Pinned(libc::cpu_set_t);

impl Pinned {
    /// On CPU `cpu`.
    ///
    /// # Errors
    /// The thread may not run there.
    pub fn new(cpu: usize) -> io::Result<Self> {
        // SAFETY: a CPU set is plain bits.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        let mut before = set;
        // SAFETY: both sets are of the size that is said.
        let done = unsafe {
            libc::CPU_SET(cpu, &mut set);
            libc::sched_getaffinity(0, mem::size_of_val(&before), &mut before) == 0
                && libc::sched_setaffinity(0, mem::size_of_val(&set), &set) == 0
        };
        if !done {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::sched_setaffinity(0, mem::size_of_val(&self.0), &self.0) };
    }
}
