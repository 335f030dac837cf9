// SPDX-License-Identifier: GPL-2.0
//! Other processes: one that inherits a descriptor, one below a memory cgroup's limit,
//! one that is killed while it runs a VM.

use std::fs;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use privmemfd_ioctls::PrivMemFd;
use vmm::VmType;

use crate::guest::Guest;
use crate::system::{bytes, PAGE};

/// First argument of a process that this program starts of itself; the second says
/// what it is.
pub const ROLE: &str = "--role";
const HOLD: &str = "hold";
const KILLED_VM: &str = "killed-vm";

/// Starts a process that runs `child`, which must not allocate, and ends with what it
/// returns.
fn fork(child: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the child calls only what may be called after a fork.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let code = child();
        // SAFETY: ends the process, without destructors.
        unsafe { libc::_exit(code) };
    }
    pid
}

fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: the status is ours.
    let got = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(got, pid, "waitpid");
    status
}

/// A process that does nothing but hold a descriptor; killed when dropped.
pub struct Child {
    process: std::process::Child,
    number: i32,
}

impl Child {
    /// Forks while `fd` is open. The child executes this program anew, as the memory
    /// of a fork has mappings of vCPUs, which keep VMs alive.
    pub fn holding(fd: BorrowedFd<'_>) -> Self {
        let inherited = rustix::io::dup(fd).expect("dup");
        let number = inherited.as_raw_fd();
        let process = Command::new("/proc/self/exe")
            .args([ROLE, HOLD])
            .stdin(Stdio::null())
            .spawn()
            .expect("a process");
        Self { process, number }
    }

    /// Another descriptor of the file that the child holds.
    pub fn give_back(&self) -> PrivMemFd {
        // SAFETY: system calls without pointers; the new descriptor is ours.
        let fd = unsafe {
            let process = libc::syscall(libc::SYS_pidfd_open, self.process.id(), 0) as i32;
            let fd = libc::syscall(libc::SYS_pidfd_getfd, process, self.number, 0) as i32;
            assert!(fd >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
            libc::close(process);
            OwnedFd::from_raw_fd(fd)
        };
        fd.into()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const CGROUP: &str = "/sys/fs/cgroup";

/// Allocates in a process that may have so many pages; its error.
pub fn allocate_limited(fd: &PrivMemFd, at: &Range<usize>, pages: usize) -> Result<(), i32> {
    let root = PathBuf::from(CGROUP);
    let own = root.join("privmemfd-soak");
    let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
    if !own.exists() {
        fs::create_dir(&own).expect("a memory cgroup");
    }
    fs::write(own.join("memory.max"), (pages as u64 * PAGE).to_string()).expect("memory.max");
    let procs = fs::File::options()
        .write(true)
        .open(own.join("cgroup.procs"));
    let procs = procs.expect("cgroup.procs");
    let adjust = fs::File::options()
        .write(true)
        .open("/proc/self/oom_score_adj");
    // What no process can be killed for is an error. Inherited.
    adjust
        .and_then(|mut f| f.write_all(b"-1000"))
        .expect("oom_score_adj");
    let at = bytes(at);
    let pid = fork(|| {
        // SAFETY: system calls; the text is a constant.
        unsafe {
            if libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                return libc::EXDEV;
            }
            let (start, len) = (at.start as i64, (at.end - at.start) as i64);
            match libc::fallocate(fd.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, start, len) {
                0 => 0,
                _ => *libc::__errno_location(),
            }
        }
    });
    let status = wait(pid);
    assert!(
        libc::WIFEXITED(status),
        "the limit has killed: status {status:#x}"
    );
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        errno => Err(errno),
    }
}

/// Runs a VM on the file in another process, which is killed with SIGKILL when its
/// guest has written the pages. Where the guest stopped, and why.
pub fn killed_vm(fd: &PrivMemFd, at: &Range<usize>, serial: u32) -> Option<(usize, i32)> {
    let inherited = rustix::io::dup(fd).expect("dup");
    let mut child = Command::new("/proc/self/exe")
        .args([ROLE, KILLED_VM, &inherited.as_raw_fd().to_string()])
        .args([at.start, at.end, serial as usize].map(|n| n.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    drop(inherited);
    let mut said = [0; 16];
    let read = child.stdout.as_mut().map(|out| out.read_exact(&mut said));
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(
        matches!(read, Some(Ok(()))),
        "the process with the VM has failed"
    );
    let word = |n: usize| u64::from_ne_bytes(said[n..n + 8].try_into().expect("eight bytes"));
    (word(8) != 0).then(|| (word(0) as usize, word(8) as i32))
}

/// The process of [`Child`] or [`killed_vm`]: waits for its end.
pub fn role(arguments: &[String]) -> ! {
    if arguments[0] == KILLED_VM {
        write_in_vm(&arguments[1..]);
    }
    loop {
        std::thread::park();
    }
}

/// Says how it went.
fn write_in_vm(arguments: &[String]) {
    let number = |n: usize| arguments[n].parse::<usize>().expect("a number");
    // SAFETY: the parent has left this descriptor open for us.
    let fd = unsafe { OwnedFd::from_raw_fd(number(0) as i32) };
    let at = number(1)..number(2);
    let mut guest = Guest::new(VmType::SwProtected);
    let borrowed = std::os::fd::AsFd::as_fd(&fd);
    guest.bind(0, borrowed, &at).expect("bind");
    let (page, errno) = guest
        .write(0, &(0..at.len()), number(3) as u32)
        .unwrap_or_default();
    let said = [(page as u64).to_ne_bytes(), (errno as u64).to_ne_bytes()].concat();
    std::io::stdout().write_all(&said).expect("standard output");
    std::io::stdout().flush().expect("standard output");
    // Neither VM nor file is closed by anything but the signal.
    std::mem::forget((guest, fd));
}
