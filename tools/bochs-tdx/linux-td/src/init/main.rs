// SPDX-License-Identifier: GPL-2.0
//! First process of a Linux TD. It loads Debian's modules, prints its TDREPORT and what
//! the firmware has measured, then works with its memory in every way it knows and
//! verifies all of it, until a line "stop" comes in on the console.
//!
//! What it prints for the host starts with "td: ". `td.shell` on the kernel command line:
//! a shell instead, whose exit status is written to the disk.

mod events;
mod pause;
mod report;
mod work;

use std::fs;
use std::io::{self, BufRead, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{exit, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::mount::{mount, MountFlags};
use rustix::system::{finit_module, reboot, RebootCommand};

use crate::work::Shared;

/// Seconds between two lines about the work.
const INTERVAL: Duration = Duration::from_secs(1);

fn uptime() -> String {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// One line of output, whole.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    // A console that is gone leaves nothing to do.
    let _ = writeln!(out, "td: {text}").and_then(|()| out.flush());
}

fn file_systems() -> io::Result<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
    ] {
        fs::create_dir_all(place)?;
        mount(kind, place, kind, MountFlags::empty(), None)?;
    }
    Ok(())
}

/// Loads the modules of /modules, which are numbered.
fn modules() -> io::Result<()> {
    let mut files: Vec<_> = fs::read_dir("/modules")?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files {
        finit_module(fs::File::open(file.path())?, c"", 0)
            .map_err(|e| io::Error::other(format!("{}: {e}", file.path().display())))?;
    }
    Ok(())
}

/// What the TD is: the report, and the measurements that made it.
fn identity() -> io::Result<()> {
    let report = report::get(b"privmemfd: a TD whose memory moves")?;
    for (name, value) in report::fields(&report) {
        say(&format!("report {name} {value}"));
    }
    let log = fs::read("/sys/firmware/acpi/tables/data/CCEL")?;
    for event in events::parse(&log)? {
        say(&format!(
            "event {} {}",
            event.register,
            report::hex(&event.digest)
        ));
    }
    Ok(())
}

fn parameter(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace().find_map(|word| {
        word.strip_prefix(name)
            .map(|v| v.trim_start_matches('=').to_owned())
    })
}

/// A shell on the console, until it ends. Its exit status goes to the start of the disk,
/// where the host looks for it.
fn shell() -> io::Result<()> {
    let busybox = "/bin/busybox";
    Command::new(busybox)
        .args(["--install", "-s", "/bin"])
        .status()?;
    let ended = Command::new(busybox)
        .args(["setsid", "cttyhack", "sh", "-l"])
        .env("PATH", "/bin")
        .env("HOME", "/tmp")
        .env("PS1", "td# ")
        .status()?;
    // As shells say it of their children.
    let status = ended
        .code()
        .or_else(|| ended.signal().map(|s| 128 + s))
        .unwrap_or(255);
    let mut disk = fs::OpenOptions::new().write(true).open(work::DISK)?;
    disk.write_all(format!("{status}\n").as_bytes())?;
    disk.sync_all()
}

/// Works until told to stop. The answer is whether all content was right.
fn run() -> io::Result<bool> {
    let mib = parameter("td.mib")
        .and_then(|v| v.parse().ok())
        .unwrap_or(64);
    let shared = Arc::new(Shared::default());
    let pauses = pause::start(&shared)?;
    let workers = work::start(&shared, mib)?;
    let listener = Arc::clone(&shared);
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if line.is_ok_and(|l| l.trim() == "stop") {
                break;
            }
        }
        listener.stop();
    });
    while !shared.stopped() {
        thread::sleep(INTERVAL);
        say(&format!("status {} {}", uptime(), shared.line()));
    }
    for worker in workers {
        worker
            .join()
            .map_err(|_| io::Error::other("a worker has panicked"))??;
    }
    pauses
        .join()
        .map_err(|_| io::Error::other("no pause was measured"))?;
    say(&format!("done {} {}", uptime(), shared.line()));
    Ok(shared.mismatches() == 0)
}

/// All of it. The answer is whether all content was right, if there was any.
fn whole() -> io::Result<Option<bool>> {
    file_systems()?;
    say(&format!("init {}", uptime()));
    modules()?;
    identity()?;
    if parameter("td.shell").is_some() {
        shell()?;
        return Ok(None);
    }
    run().map(Some)
}

fn main() {
    // A child of the worker for processes.
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, what, seed] = &arguments[..] {
        if what == "child" {
            exit(work::child(seed.parse().unwrap_or(0)));
        }
    }
    match whole() {
        Ok(None) => {}
        Ok(Some(true)) => say("verdict good"),
        Ok(Some(false)) => say("verdict mismatch"),
        Err(e) => say(&format!("verdict error: {e}")),
    }
    rustix::fs::sync();
    if let Err(e) = reboot(RebootCommand::PowerOff) {
        say(&format!("verdict error: no power off: {e}"));
    }
    loop {
        thread::park();
    }
}
