// SPDX-License-Identifier: GPL-2.0
//! Takes a memory block offline, with an end to the kernel's patience.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{set_parent_process_death_signal, Signal};

use crate::kernel_log::KernelLog;
use crate::memory::Block;

/// How often it is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Why a block is not offline.
#[derive(Debug)]
pub enum Refused {
    /// The time was over: the kernel would have tried for ever.
    OutOfTime,
    /// The kernel has refused, perhaps for this frame, for this reason.
    Kernel(io::Error, Option<(u64, String)>),
}

/// Takes a block offline. The request is made by a process of its own, for nothing but a
/// signal ends it when a page does not move; `tick` is called meanwhile.
pub fn take_offline(
    block: &Block,
    deadline: Option<Instant>,
    mut tick: impl FnMut(),
) -> Result<(), Refused> {
    let log = KernelLog::from_now();
    let kernel = |e| Refused::Kernel(e, None);
    let mut child = Command::new("/proc/self/exe")
        .args(["set-state", &block.index.to_string(), "offline"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(kernel)?;
    loop {
        if let Some(status) = child.try_wait().map_err(kernel)? {
            let error = match status.code() {
                Some(0) => return Ok(()),
                Some(errno) => io::Error::from_raw_os_error(errno),
                None => io::Error::from(io::ErrorKind::Interrupted),
            };
            let dumped = log.ok().and_then(|mut log| log.dumped_page());
            return Err(Refused::Kernel(error, dumped));
        }
        if deadline.is_some_and(|end| Instant::now() >= end) {
            child.kill().map_err(kernel)?;
            child.wait().map_err(kernel)?;
            return Err(Refused::OutOfTime);
        }
        tick();
        std::thread::sleep(TICK);
    }
}

/// What that process does; gives its exit status, 0 or an errno. Ends with the process that
/// has started it.
pub fn set_state(index: u64, state: &str) -> u8 {
    let written = set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(io::Error::from)
        .and_then(|()| {
            fs::write(
                format!("/sys/devices/system/memory/memory{index}/state"),
                state,
            )
        });
    match written {
        Ok(()) => 0,
        Err(e) => e
            .raw_os_error()
            .and_then(|n| u8::try_from(n).ok())
            .unwrap_or(u8::MAX),
    }
}
