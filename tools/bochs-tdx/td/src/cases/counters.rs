// SPDX-License-Identifier: GPL-2.0
//! What the module counts, and whether it can go.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::{booted, check, equal, Counters, Options, Outcome, MISMATCHES};
use crate::vm::Provider;

const DEBUGFS: &str = "/sys/kernel/debug/privmemfd";
const NAMES: &[&str] = &[
    "tdx_relocated",
    "tdx_kicks",
    "tdx_holds",
    "tdx_rollbacks",
    "tdx_pages_kept",
    "tdx_tds_lost",
    "tdx_calls_block",
    "tdx_calls_track",
    "tdx_calls_relocate",
    "tdx_calls_unblock",
    "tdx_calls_wbinvd",
];
/// Longest wait for the kernel to let go of a file.
const PATIENCE: Duration = Duration::from_secs(10);

/// One counter of the module.
pub fn total(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(format!("{DEBUGFS}/{name}"))?;
    text.trim().parse().map_err(io::Error::other)
}

/// All counters of the TDX backend.
pub fn read() -> io::Result<Counters> {
    NAMES.iter().map(|&name| Ok((name, total(name)?))).collect()
}

/// All cases together: nothing damaged, nothing lost.
pub fn totals(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    counters.push(("mismatches", MISMATCHES.load(Relaxed)));
    equal("wrong cells", MISMATCHES.load(Relaxed), 0)?;
    if o.provider != Provider::Privmemfd {
        return Ok(Outcome::Passed);
    }
    let totals = read()?;
    counters.extend_from_slice(&totals);
    for (name, n) in totals {
        if matches!(name, "tdx_pages_kept" | "tdx_tds_lost") {
            equal(name, n, 0)?;
        }
    }
    Ok(Outcome::Passed)
}

fn remove_module() -> io::Result<()> {
    // SAFETY: the kernel reads the name, nothing else.
    let r = unsafe {
        libc::syscall(
            libc::SYS_delete_module,
            c"privmemfd".as_ptr(),
            libc::O_NONBLOCK,
        )
    };
    if r == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// The module stays while a TD has its memory, and goes afterwards.
pub fn unload(o: &Options, _: &mut Counters) -> io::Result<Outcome> {
    if o.provider != Provider::Privmemfd {
        return Ok(Outcome::Skipped("the module is not loaded"));
    }
    let (td, vcpus) = booted(o)?;
    let refusal = remove_module().err().and_then(|e| e.raw_os_error());
    check(matches!(refusal, Some(libc::EAGAIN | libc::EBUSY)), || {
        format!("delete_module with a TD: errno {refusal:?}")
    })?;
    drop(vcpus);
    drop(td);
    let deadline = Instant::now() + PATIENCE;
    while let Err(e) = remove_module() {
        check(Instant::now() < deadline, || {
            format!("delete_module without a TD: {e}")
        })?;
        thread::sleep(Duration::from_millis(20));
    }
    check(!Path::new(privmemfd_ioctls::DEVICE).exists(), || {
        "the device outlives its module".into()
    })?;
    Ok(Outcome::Passed)
}
