// SPDX-License-Identifier: GPL-2.0
//! Processes that have a privmemfd open.

use std::fs;
use std::io;

use anyhow::{bail, Context};
use privmemfd_ioctls::{PrivMemFd, LINK};
use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};

/// One open descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Process.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Descriptor in that process.
    pub fd: i32,
}

/// Every open descriptor of a privmemfd that this process may see.
pub fn scan() -> io::Result<Vec<Owner>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // The process may be gone, or not ours to look at.
        let Ok(fds) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        for link in fds.flatten() {
            let Some(fd) = link.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            if fs::read_link(link.path()).is_ok_and(|to| is_privmemfd(&to.to_string_lossy())) {
                found.push(Owner {
                    pid,
                    comm: comm.trim().to_owned(),
                    fd,
                });
            }
        }
    }
    found.sort_by_key(|o| (o.pid, o.fd));
    Ok(found)
}

fn is_privmemfd(link: &str) -> bool {
    link == LINK
}

/// Takes a copy of a descriptor out of another process.
pub fn reach(pid: i32, fd: i32) -> anyhow::Result<PrivMemFd> {
    let Some(target) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        bail!("{pid} is not a process id");
    };
    let pidfd = pidfd_open(target, PidfdFlags::empty()).with_context(|| {
        format!("cannot open process {pid}; `privmemctl list` shows who is there")
    })?;
    let file = pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()).with_context(|| {
        format!("cannot take descriptor {fd} out of process {pid}; are you root, and is it open?")
    })?;
    Ok(PrivMemFd::from(file))
}
