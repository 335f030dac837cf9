// SPDX-License-Identifier: GPL-2.0
//! The longest time in which a thread that always goes first did not run.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::work::Shared;

const STEP: Duration = Duration::from_millis(2);

/// Starts to measure, until `shared` says stop.
///
/// # Errors
/// The thread cannot be made, or not be made to go first.
pub fn start(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = thread::Builder::new().name("pause".into()).spawn(move || {
        let parameter = libc::sched_param { sched_priority: 50 };
        // SAFETY: The parameter lives during the call, which changes this thread only.
        let rc = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
        let result = if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        };
        let failed = result.is_err() || ready.send(result).is_err();
        while !failed && !shared.stopped() {
            let before = Instant::now();
            thread::sleep(STEP);
            shared.pause(before.elapsed().saturating_sub(STEP));
        }
    })?;
    is_ready
        .recv()
        .map_err(|_| io::Error::other("the thread that measures pauses has ended"))??;
    Ok(thread)
}
