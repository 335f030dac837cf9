// SPDX-License-Identifier: GPL-2.0
//! Errors that say which request failed and what to do about it.

use std::fmt;
use std::io;

/// A request that failed.
#[derive(Debug)]
pub struct Error {
    request: &'static str,
    source: io::Error,
}

impl Error {
    pub(crate) fn new(request: &'static str, source: io::Error) -> Self {
        Self { request, source }
    }

    /// The errno the kernel gave.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => {
                "is the module loaded? insmod privmemfd.ko"
            }
            libc::EACCES | libc::EPERM => "run it as root",
            libc::ENOTTY => "this file is not a privmemfd",
            libc::EBUSY => "the file is pinned, or a page cannot move right now",
            libc::EAGAIN => "something else works on these pages: try again",
            libc::ENOMEM => "no memory on that node, or the memory cgroup is at its limit",
            libc::EINVAL => {
                "sizes and offsets are multiples of 4096 inside the file, nodes are online"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.request, self.source)?;
        match self.hint() {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// The message has the errno already: a source would say it twice.
impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(e: Error) -> Self {
        io::Error::new(e.source.kind(), e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MoveError;

    #[test]
    fn an_error_names_the_request_the_errno_and_what_to_do() {
        let e = Error::new("PRIVMEMFD_MOVE", io::Error::from_raw_os_error(libc::EBUSY));
        assert_eq!(e.errno(), libc::EBUSY);
        let text = e.to_string();
        assert!(text.starts_with("PRIVMEMFD_MOVE: "), "{text}");
        assert!(text.contains("pinned"), "{text}");
        assert!(io::Error::from(e).to_string().contains("PRIVMEMFD_MOVE"));
    }

    /// As programs print it: with everything that is behind it.
    fn chain(e: &dyn std::error::Error) -> String {
        let next = std::iter::successors(e.source(), |e| e.source());
        next.fold(e.to_string(), |text, e| format!("{text}: {e}"))
    }

    #[test]
    fn an_error_names_its_errno_once() {
        let error = || Error::new("PRIVMEMFD_MOVE", io::Error::from_raw_os_error(libc::EBUSY));
        let half = MoveError {
            moved: 3,
            pages: Vec::new(),
            source: error(),
        };
        for text in [
            chain(&error()),
            chain(&half),
            chain(&io::Error::from(error())),
        ] {
            assert_eq!(text.matches("(os error 16)").count(), 1, "{text}");
        }
    }
}
