// SPDX-License-Identifier: GPL-2.0
//! How `PRIVMEMFD_MOVE` has ended, page by page.

use std::fmt;

use crate::Error;

/// Why a page has not moved. It is where it was, content and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// A VM could not be kept off it, the TDX module did not move it, or the
    /// host could not copy it.
    Busy,
    /// Another operation on the file was under way: ask again.
    Contention,
    /// Its memory has failed.
    Poison,
    /// No memory for the new page.
    NoMemory,
    /// Another errno.
    Other(i32),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "the VM or the TDX module did not let go of them",
            Self::Contention => "something else kept working on them",
            Self::Poison => "their memory has failed",
            Self::NoMemory => "no memory to move them to",
            Self::Other(errno) => return std::io::Error::from_raw_os_error(*errno).fmt(f),
        })
    }
}

/// How one page of a request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageStatus {
    /// It is on this node, whether it has moved or was there.
    On(u32),
    /// It has no memory.
    Empty,
    /// It has not moved.
    Stuck(Obstacle),
    /// The request did not come to it.
    Untold,
}

impl PageStatus {
    /// What the array holds before the request; the kernel writes nothing like it.
    pub(crate) const UNTOLD: i32 = i32::MIN;
}

impl From<i32> for PageStatus {
    fn from(status: i32) -> Self {
        if let Ok(node) = u32::try_from(status) {
            return Self::On(node);
        }
        match status.checked_neg() {
            None => Self::Untold,
            Some(libc::ENOENT) => Self::Empty,
            Some(libc::EBUSY) => Self::Stuck(Obstacle::Busy),
            Some(libc::EAGAIN) => Self::Stuck(Obstacle::Contention),
            Some(libc::EHWPOISON) => Self::Stuck(Obstacle::Poison),
            Some(libc::ENOMEM) => Self::Stuck(Obstacle::NoMemory),
            Some(errno) => Self::Stuck(Obstacle::Other(errno)),
        }
    }
}

/// What a move that went through its whole range has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moves {
    /// Pages that have moved.
    pub moved: u64,
    /// How each page of the range has ended.
    pub pages: Vec<PageStatus>,
}

/// A move that failed, perhaps half-way.
#[derive(Debug)]
pub struct MoveError {
    /// Pages that had moved by then.
    pub moved: u64,
    /// How each page of the range has ended, if that was asked for.
    pub pages: Vec<PageStatus>,
    /// Why it stopped.
    pub source: Error,
}

impl MoveError {
    /// The errno the kernel gave.
    pub fn errno(&self) -> i32 {
        self.source.errno()
    }
}

impl fmt::Display for MoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {} pages", self.source, self.moved)
    }
}

/// The message has everything: see [`Error`].
impl std::error::Error for MoveError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_node_or_an_errno() {
        for (status, meaning) in [
            (0, PageStatus::On(0)),
            (i32::MAX, PageStatus::On(i32::MAX as u32)),
            (-libc::ENOENT, PageStatus::Empty),
            (-libc::EBUSY, PageStatus::Stuck(Obstacle::Busy)),
            (-libc::EAGAIN, PageStatus::Stuck(Obstacle::Contention)),
            (-libc::EHWPOISON, PageStatus::Stuck(Obstacle::Poison)),
            (-libc::ENOMEM, PageStatus::Stuck(Obstacle::NoMemory)),
            (-libc::EIO, PageStatus::Stuck(Obstacle::Other(libc::EIO))),
            (PageStatus::UNTOLD, PageStatus::Untold),
        ] {
            assert_eq!(PageStatus::from(status), meaning, "{status}");
        }
    }
}
