// SPDX-License-Identifier: GPL-2.0
//! Processes that have a privmemfd open, and their VMs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{bail, Context};
use privmemfd_ioctls::{PrivMemFd, LINK};
use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
use serde::Serialize;

/// What `/proc/pid/fd/N` of a VM points to.
const VM_LINK: &str = "anon_inode:kvm-vm";
/// The same of KVM's own guest_memfd.
pub const GMEM_LINK: &str = "anon_inode:[kvm-gmem]";

/// One open descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Process.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Descriptor in that process.
    pub fd: i32,
    /// The VM that the process runs, by its name if the command line tells one.
    pub vm: Option<String>,
    /// Inode: descriptors with the same are of one file.
    pub ino: u64,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {}) descriptor {}", self.comm, self.pid, self.fd)?;
        match &self.vm {
            Some(vm) => write!(f, ", VM {vm}"),
            None => Ok(()),
        }
    }
}

/// Which descriptors are meant; everything that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Process.
    pub pid: Option<i32>,
    /// Descriptor.
    pub fd: Option<i32>,
    /// Name of the process.
    pub name: Option<String>,
    /// Name of the VM.
    pub vm: Option<String>,
}

impl Selection {
    /// Whether a descriptor is meant.
    pub fn fits(&self, owner: &Owner) -> bool {
        self.pid.is_none_or(|pid| pid == owner.pid)
            && self.fd.is_none_or(|fd| fd == owner.fd)
            && self.name.as_ref().is_none_or(|name| *name == owner.comm)
            && self
                .vm
                .as_ref()
                .is_none_or(|vm| owner.vm.as_ref() == Some(vm))
    }

    /// Whether nothing is given, so that every descriptor fits.
    pub fn is_empty(&self) -> bool {
        self.pid.is_none() && self.fd.is_none() && self.name.is_none() && self.vm.is_none()
    }

    /// The descriptors that fit, one for each file, and the files.
    ///
    /// # Errors
    ///
    /// None fits, or one cannot be reached.
    pub fn files(&self) -> anyhow::Result<Vec<(Owner, PrivMemFd)>> {
        // Named to the last: whatever it is, the kernel says what is wrong with it.
        if let (Some(pid), Some(fd), None, None) = (self.pid, self.fd, &self.name, &self.vm) {
            let file = reach(pid, fd)?;
            return Ok(vec![(owner(pid, fd), file)]);
        }
        if self.pid.is_some_and(|pid| pid <= 0) {
            bail!("{} is not a process id", self.pid.unwrap_or_default());
        }
        let found = scan().context("cannot look through /proc")?;
        let others: Vec<String> = found.iter().map(Owner::to_string).collect();
        let mut owners: Vec<Owner> = found.into_iter().filter(|o| self.fits(o)).collect();
        let mut seen = Vec::new();
        owners.retain(|o| !seen.contains(&o.ino) && (seen.push(o.ino), true).1);
        match (owners.is_empty(), others.is_empty()) {
            (true, true) => bail!("nobody has a privmemfd open (or you are not root)"),
            (true, false) => bail!("no privmemfd fits; there are: {}", others.join("; ")),
            _ => {}
        }
        let reached = owners
            .into_iter()
            .map(|o| reach(o.pid, o.fd).map(|f| (o, f)));
        reached.collect()
    }
}

fn owner(pid: i32, fd: i32) -> Owner {
    let dir = Path::new("/proc").join(pid.to_string());
    Owner {
        pid,
        comm: comm(pid),
        fd,
        vm: vm_of(&dir),
        ino: fs::metadata(dir.join("fd").join(fd.to_string())).map_or(0, |m| m.ino()),
    }
}

/// Name of a process; empty if it has gone.
pub fn comm(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.map(|n| n.trim().to_owned()).unwrap_or_default()
}

/// Every process that this one may see.
pub fn processes() -> io::Result<Vec<i32>> {
    let pid = |e: fs::DirEntry| e.file_name().to_str()?.parse().ok();
    let mut all: Vec<i32> = fs::read_dir("/proc")?.flatten().filter_map(pid).collect();
    all.sort_unstable();
    Ok(all)
}

/// Every open descriptor of a privmemfd that this process may see.
pub fn scan() -> io::Result<Vec<Owner>> {
    let mut found = Vec::new();
    for pid in processes()? {
        // The process may be gone, or not ours to look at.
        found.extend(open_as(pid, LINK).into_iter().map(|fd| owner(pid, fd)));
    }
    Ok(found)
}

/// Descriptors of a process that are such files, in rising order.
pub fn open_as(pid: i32, link: &str) -> Vec<i32> {
    let dir = Path::new("/proc").join(pid.to_string()).join("fd");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<i32> = entries
        .filter(|e| fs::read_link(e.path()).is_ok_and(|to| to.as_os_str() == link))
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    all.sort_unstable();
    all
}

/// What to call the VM of a process; `None` if it has none.
fn vm_of(process: &Path) -> Option<String> {
    let pid = process.file_name()?.to_str()?.parse().ok()?;
    if open_as(pid, VM_LINK).is_empty() {
        return None;
    }
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let arguments: Vec<String> = line
        .split(|b| *b == 0)
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .collect();
    Some(vm_name(&arguments).unwrap_or_else(|| format!("of pid {pid}")))
}

/// What `-name` says: `-name debian` or, as libvirt does, `-name guest=debian,...`.
fn vm_name(arguments: &[String]) -> Option<String> {
    let at = arguments
        .iter()
        .position(|a| a == "-name" || a == "--name")?;
    let value = arguments.get(at + 1)?;
    let part = value
        .split(',')
        .find_map(|part| part.strip_prefix("guest="))
        .or_else(|| value.split(',').next().filter(|part| !part.contains('=')))?;
    (!part.is_empty()).then(|| part.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_the_name_of_its_command_line() {
        let named = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            vm_name(&words)
        };
        assert_eq!(named("qemu -name debian -m 1G"), Some("debian".into()));
        assert_eq!(
            named("qemu -name guest=web,debug-threads=on"),
            Some("web".into())
        );
        assert_eq!(named("qemu -name debug-threads=on"), None);
        assert_eq!(named("qemu -name"), None);
        assert_eq!(named("vmm --mem 1G"), None);
    }

    #[test]
    fn everything_that_is_given_must_fit() {
        let owner = Owner {
            pid: 7,
            comm: "qemu".into(),
            fd: 3,
            vm: Some("web".into()),
            ino: 1,
        };
        let all = Selection::default();
        assert!(all.is_empty() && all.fits(&owner));
        let mut one = Selection {
            vm: Some("web".into()),
            ..all
        };
        assert!(one.fits(&owner));
        one.pid = Some(8);
        assert!(!one.fits(&owner));
    }
}
