// SPDX-License-Identifier: GPL-2.0

//! Hibernation, whose image would hold all content that the host can read.
//!
//! C header: [`include/linux/suspend.h`](srctree/include/linux/suspend.h)

use crate::ffi;
use kernel::{
    error::to_result,
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    }, //
};

/// The one that hibernation has to pass, while a [`Watch`] lives.
pub static HIBERNATION: Gate = Gate::new();

/// Keeps content and hibernation apart: while there is one of them the other cannot begin.
pub struct Gate(Atomic<usize>);

/// Value of a gate that hibernation has passed; else it is the number of [`Content`]s.
const PASSED: usize = usize::MAX;

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// No content, no hibernation.
    pub const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Content comes into being.
    ///
    /// # Errors
    ///
    /// `EBUSY`: the system is about to hibernate.
    pub fn enter(&'static self) -> Result<Content> {
        let mut contents = self.0.load(Relaxed);
        loop {
            if contents == PASSED {
                return Err(EBUSY);
            }
            match self.0.cmpxchg(contents, contents + 1, Full) {
                Ok(_) => return Ok(Content(self)),
                Err(now) => contents = now,
            }
        }
    }

    /// Hibernation begins.
    ///
    /// # Errors
    ///
    /// `EBUSY`: there is content.
    pub fn pass(&self) -> Result {
        self.0.cmpxchg(0, PASSED, Full).map(drop).or(Err(EBUSY))
    }

    /// Hibernation is over, if it had begun.
    pub fn back(&self) {
        // Else there may be content, which stays.
        let _ = self.0.cmpxchg(PASSED, 0, Full);
    }
}

/// Content that may be in an image of all memory.
pub struct Content(&'static Gate);

impl Drop for Content {
    fn drop(&mut self) {
        let _ = self.0 .0.fetch_sub(1, Full);
    }
}

/// Has [`HIBERNATION`] asked, for as long as it lives.
///
/// Who has begun before that, by an open `/dev/snapshot`, is not held up.
pub struct Watch(());

impl Watch {
    /// Starts it. May sleep. Without `CONFIG_PM_SLEEP` there is nothing to watch.
    ///
    /// # Errors
    ///
    /// `EEXIST`: there is one already.
    pub fn start() -> Result<Self> {
        // SAFETY: The notifier is a static of the module; one that is registered is refused.
        to_result(unsafe { ffi::privmemfd_helper_register_pm_notifier() })?;
        Ok(Self(()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: start() has registered it. Waits for callbacks that run.
        unsafe { ffi::privmemfd_helper_unregister_pm_notifier() };
    }
}

#[no_mangle]
extern "C" fn privmemfd_rust_hibernation_prepare() -> kernel::ffi::c_int {
    match HIBERNATION.pass() {
        Ok(()) => 0,
        Err(e) => {
            pr_info!("hibernation is refused: its image would hold guests' private memory\n");
            e.to_errno()
        }
    }
}

#[no_mangle]
extern "C" fn privmemfd_rust_hibernation_over() {
    HIBERNATION.back();
}

#[kunit_tests(privmemfd_power)]
mod tests {
    use super::*;

    #[test]
    fn content_and_hibernation_keep_each_other_out() {
        static GATE: Gate = Gate::new();
        let first = GATE.enter().unwrap();
        let second = GATE.enter().unwrap();
        assert_eq!(GATE.pass(), Err(EBUSY));
        drop(first);
        assert_eq!(GATE.pass(), Err(EBUSY));
        // The end of one that was refused changes nothing.
        GATE.back();
        assert_eq!(GATE.pass(), Err(EBUSY));
        drop(second);
        assert_eq!(GATE.pass(), Ok(()));
        assert_eq!(GATE.enter().map(drop), Err(EBUSY));
        assert_eq!(GATE.pass(), Err(EBUSY));
        GATE.back();
        assert_eq!(GATE.enter().map(drop), Ok(()));
        assert_eq!(GATE.pass(), Ok(()));
        GATE.back();
    }
}
