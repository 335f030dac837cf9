// SPDX-License-Identifier: GPL-2.0
//! `privmemctl`, run as people run it.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};

use privmemctl::owners::reach;
use privmemfd_ioctls::PrivMemFd;
use serde_json::Value;

use crate::fixtures::child;

/// An ordinary user and group.
const NOBODY: u32 = 65534;
/// Name of that role.
pub const NOBODY_ROLE: &str = "nobody";

/// The tool, which lies beside the tests.
pub fn tool() -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.set_file_name("privmemctl");
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

/// The tool with these arguments, to its end.
pub fn run(arguments: &str) -> Output {
    tool().args(arguments.split_whitespace()).output().unwrap()
}

/// The same by an ordinary user: by this program in the role [`NOBODY_ROLE`], since std's way
/// to another user needs sockets, which the test kernel has none of.
pub fn run_as_nobody(arguments: &str) -> Output {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    child(NOBODY_ROLE, &arguments).wait_with_output().unwrap()
}

/// What [`run_as_nobody`] starts: becomes that user, then the tool.
pub fn become_nobody(arguments: &[String]) -> ! {
    // SAFETY: no memory is passed, and this thread is the only one.
    let became = unsafe { libc::setgid(NOBODY) == 0 && libc::setuid(NOBODY) == 0 };
    assert!(became, "{}", std::io::Error::last_os_error());
    let mut command = tool();
    command.args(arguments);
    // As output, not beside it: whoever asks looks at both.
    command.stderr(rustix::io::dup(std::io::stdout()).unwrap());
    panic!("{}", command.exec());
}

/// The same into a pipe that nobody reads.
pub fn run_into_closed_pipe(arguments: &str) -> Output {
    let (reader, writer): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let mut command = tool();
    command.args(arguments.split_whitespace());
    command.stdout(writer).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    child.wait_with_output().unwrap()
}

/// What it prints and its exit status.
#[track_caller]
pub fn ends(arguments: &str, status: i32) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments}: {text}{errors}"
    );
    text.into_owned()
}

/// What it prints; panics if it fails.
#[track_caller]
pub fn says(arguments: &str) -> String {
    ends(arguments, 0)
}

/// The same as JSON, with its exit status.
#[track_caller]
pub fn tells(arguments: &str, status: i32) -> Value {
    let text = ends(&format!("--json {arguments}"), status);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments}: {e}: {text}"))
}

/// Panics unless it fails with this exit status and a message with this in it.
#[track_caller]
pub fn complains(arguments: &str, status: i32, message: &str) {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments}: {errors}");
    assert!(errors.contains(message), "{arguments}: {errors}");
}

/// `privmemctl hold` at work.
pub struct Holder {
    /// The process.
    pub task: Child,
    /// Its id.
    pub pid: i32,
    /// The descriptor.
    pub fd: i32,
}

impl Holder {
    /// With these arguments.
    pub fn new(arguments: &str) -> Self {
        let mut task = tool()
            .arg("hold")
            .args(arguments.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = task.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        // "holding 4.0 MiB as descriptor 4 of process 123; Ctrl-C ends it"
        let after = |word: &str| {
            let (_, rest) = line.split_once(word).unwrap_or_else(|| panic!("{line:?}"));
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
            digits.unwrap().parse().unwrap()
        };
        let (pid, fd) = (after("process "), after("descriptor "));
        assert_eq!(pid as u32, task.id(), "{line}");
        Self { task, pid, fd }
    }

    /// Arguments that name its file.
    pub fn target(&self) -> String {
        format!("--pid {} --fd {}", self.pid, self.fd)
    }

    /// Its file.
    pub fn file(&self) -> PrivMemFd {
        reach(self.pid, self.fd).unwrap()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.task.kill();
        let _ = self.task.wait();
    }
}
