// SPDX-License-Identifier: GPL-2.0
//! Moves as the trace events tell them, from a tracing instance of our own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, Context};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use serde::Serialize;

const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// KiB for each CPU: moves come by ten thousands a second.
const BUFFER_KIB: &str = "4096";
const EVENTS: [&str; 3] = [
    "privmemfd/privmemfd_relocate_begin",
    "privmemfd/privmemfd_relocate_end",
    "migrate/mm_migrate_pages_start",
];

/// One page that was to move.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Move {
    /// Seconds since the machine has booted, at its end.
    pub time: f64,
    /// Inode of the file.
    pub ino: u64,
    /// Page of the file.
    pub index: u64,
    /// Frame that it was on; `None` if the beginning was not seen.
    pub from: Option<u64>,
    /// Frame that it is on, or was to be on.
    pub to: Option<u64>,
    /// Who asked: `request`, or what mm wanted (`compaction`, `memory_hotplug`,
    /// `contig_range`, ..., or `mm` if that was not seen).
    pub cause: String,
    /// What has moved the content.
    pub backend: String,
    /// 0 or an errno.
    pub result: i32,
    /// Why it has not moved; `none` if it has.
    pub refused: String,
    /// Nanoseconds since its batch began.
    pub ns: u64,
}

/// Events, told until this is dropped.
pub struct Tracer {
    instance: PathBuf,
    pipe: File,
    pairs: Pairs,
    rest: String,
}

impl Tracer {
    /// Begins.
    ///
    /// # Errors
    ///
    /// No tracefs, no such events (the module is not loaded), or not root.
    pub fn start() -> anyhow::Result<Self> {
        let Some(root) = ROOTS
            .map(Path::new)
            .into_iter()
            .find(|r| r.join("instances").exists())
        else {
            bail!("no trace events: as root, mount -t tracefs tracefs /sys/kernel/tracing (CONFIG_FTRACE)");
        };
        if !root.join("events/privmemfd").exists() {
            bail!(
                "no trace events of privmemfd: insmod privmemfd.ko (privmemctl doctor tells more)"
            );
        }
        let instance = root.join(format!("instances/privmemctl-{}", std::process::id()));
        fs::create_dir(&instance).with_context(|| format!("cannot make {}", instance.display()))?;
        // From here on the instance goes when the result is dropped.
        let set = || -> io::Result<File> {
            fs::write(instance.join("buffer_size_kb"), BUFFER_KIB)?;
            let pipe = File::options()
                .read(true)
                .custom_flags(OFlags::NONBLOCK.bits() as i32)
                .open(instance.join("trace_pipe"))?;
            for event in EVENTS {
                let path = instance.join("events").join(event).join("enable");
                // The reason of mm is an extra.
                if path.exists() || event.starts_with("privmemfd") {
                    fs::write(path, "1")?;
                }
            }
            Ok(pipe)
        };
        match set() {
            Ok(pipe) => Ok(Self {
                instance,
                pipe,
                pairs: Pairs::default(),
                rest: String::new(),
            }),
            Err(e) => {
                let _ = fs::remove_dir(&instance);
                Err(e).context("cannot turn the trace events on")
            }
        }
    }

    /// The moves that have ended, waiting up to so long for the first.
    pub fn next(&mut self, wait: Duration) -> anyhow::Result<Vec<Move>> {
        let time = Timespec::try_from(wait).context("too long to wait")?;
        let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("trace_pipe"),
        }
        let mut bytes = vec![0; 1 << 16];
        loop {
            match self.pipe.read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => self.rest.push_str(&String::from_utf8_lossy(&bytes[..n])),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("trace_pipe"),
            }
            if self.rest.len() > 1 << 20 {
                break;
            }
        }
        let whole = self.rest.rfind('\n').map_or(0, |at| at + 1);
        let text: String = self.rest.drain(..whole).collect();
        Ok(text
            .lines()
            .filter_map(|line| self.pairs.line(line))
            .collect())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        for event in EVENTS {
            let _ = fs::write(self.instance.join("events").join(event).join("enable"), "0");
        }
        // Not while its pipe is open.
        if let Ok(null) = File::open("/dev/null") {
            self.pipe = null;
        }
        let _ = fs::remove_dir(&self.instance);
    }
}

/// Joins beginnings and ends.
#[derive(Default)]
struct Pairs {
    begun: HashMap<(u64, u64), (u64, u64)>,
    /// What mm is migrating for, by task.
    reasons: HashMap<String, String>,
}

impl Pairs {
    /// The move that a line of the trace ends.
    fn line(&mut self, line: &str) -> Option<Move> {
        // "     kcompactd0-38      [001] ..... 12.345678: event: key=value ..."
        let (head, rest) = line.split_once(": ")?;
        let (event, values) = rest.split_once(": ")?;
        let (task, time) = (head.split_once('[')?.0.trim(), head.rsplit(' ').next()?);
        let values: HashMap<&str, &str> = values
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .collect();
        let number = |key| -> Option<u64> { values.get(key)?.parse().ok() };
        let frame = |key| u64::from_str_radix(values.get(key)?.strip_prefix("0x")?, 16).ok();
        match event {
            "mm_migrate_pages_start" => {
                let reason = (*values.get("reason")?).to_owned();
                self.reasons.insert(task.to_owned(), reason);
                None
            }
            "privmemfd_relocate_begin" => {
                let page = (number("ino")?, number("index")?);
                self.begun.insert(page, (frame("pfn")?, frame("to")?));
                None
            }
            "privmemfd_relocate_end" => {
                let page = (number("ino")?, number("index")?);
                let frames = self.begun.remove(&page);
                let mut cause = (*values.get("cause")?).to_owned();
                if cause == "mm" {
                    if let Some(reason) = self.reasons.get(task) {
                        cause.clone_from(reason);
                    }
                }
                Some(Move {
                    time: time.parse().ok()?,
                    ino: page.0,
                    index: page.1,
                    from: frames.map(|f| f.0),
                    to: frames.map(|f| f.1),
                    cause,
                    backend: (*values.get("backend")?).to_owned(),
                    result: values.get("result")?.parse().ok()?,
                    refused: (*values.get("refused")?).to_owned(),
                    ns: number("ns")?,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_told_once_it_has_ended() {
        let mut pairs = Pairs::default();
        let told: Vec<Move> = [
            " kcompactd0-38      [001] .....    12.000001: mm_migrate_pages_start: mode=MIGRATE_ASYNC reason=compaction",
            " kcompactd0-38      [001] .....    12.000002: privmemfd_relocate_begin: ino=7 index=3 pfn=0x120000 to=0x130000 cause=mm",
            " kcompactd0-38      [001] .....    12.000005: privmemfd_relocate_end: ino=7 index=3 cause=mm backend=software result=0 refused=none ns=2600",
            " other thing-99     [000] .....    13.500000: privmemfd_relocate_end: ino=7 index=4 cause=mm backend=tdx result=-16 refused=guest ns=9",
            "CPU:0 [LOST 5 EVENTS]",
            "",
        ]
        .into_iter()
        .filter_map(|line| pairs.line(line))
        .collect();
        assert_eq!(told.len(), 2);
        assert_eq!(
            (told[0].from, told[0].to),
            (Some(0x12_0000), Some(0x13_0000))
        );
        assert_eq!((told[0].cause.as_str(), told[0].ns), ("compaction", 2600));
        assert!((told[0].time - 12.000_005).abs() < 1e-9);
        assert_eq!(told[1].from, None);
        assert_eq!((told[1].cause.as_str(), told[1].result), ("mm", -16));
        assert_eq!(told[1].refused, "guest");
    }
}
