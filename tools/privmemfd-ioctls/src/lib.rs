// SPDX-License-Identifier: GPL-2.0
//! privmemfd from user space: one typed method per ioctl.
//!
//! ```no_run
//! use privmemfd_ioctls::{Device, Mobility, Options};
//!
//! # fn main() -> Result<(), privmemfd_ioctls::Error> {
//! let fd = Device::open()?.create(64 << 20, Options::new(Mobility::Movable))?;
//! fd.allocate(0..64 << 20)?;
//! println!("{} pages, {} relocations", fd.stat()?.pages, fd.stat()?.relocated);
//! # Ok(())
//! # }
//! ```
//!
//! [`sys`] has the same requests with the plain structures, for tests.
#![warn(missing_docs)]

mod error;
mod moves;
mod stat;
pub mod sys;
pub mod uapi;

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::FallocateFlags;

pub use error::Error;
pub use moves::{MoveError, Moves, Obstacle, PageStatus};
pub use stat::{Refusal, Stat, Zone};

/// Where the control device is.
pub const DEVICE: &str = "/dev/privmemfd";
/// What `/proc/pid/fd/N` of a privmemfd points to.
pub const LINK: &str = "anon_inode:[privmemfd]";
/// Flag of `KVM_CREATE_GUEST_MEMFD` that asks KVM for a movable privmemfd.
pub const GUEST_MEMFD_FLAG_MOVABLE: u64 = 1 << 30;
/// Bytes in the pages that a privmemfd is made of.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes that [`PrivMemFd::resident`] looks at in one call.
const RESIDENT_STEP: u64 = 1 << 30;

/// Whether the host may move the pages of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mobility {
    /// The host may move pages, and may put them into ZONE_MOVABLE and CMA.
    Movable,
    /// Pages stay where they were allocated.
    Pinned,
}

/// How to make a privmemfd, see [`Device::create`].
#[derive(Debug, Clone, Copy)]
pub struct Options {
    mobility: Mobility,
    node: Option<u32>,
    cloexec: bool,
}

impl Options {
    /// Pages from any node; the descriptor is closed on exec.
    pub fn new(mobility: Mobility) -> Self {
        Self {
            mobility,
            node: None,
            cloexec: true,
        }
    }

    /// Takes pages from this node while it has free memory.
    pub fn node(mut self, node: u32) -> Self {
        self.node = Some(node);
        self
    }

    /// Keeps the descriptor open on exec.
    pub fn inherit(mut self) -> Self {
        self.cloexec = false;
        self
    }
}

fn node_arg(node: Option<u32>) -> i32 {
    // A node number that does not fit is as unknown as i32::MAX.
    node.map_or(uapi::PRIVMEMFD_NODE_ANY, |n| {
        i32::try_from(n).unwrap_or(i32::MAX)
    })
}

fn move_arg(range: Range<u64>, node: Option<u32>) -> uapi::privmemfd_move {
    uapi::privmemfd_move {
        offset: range.start,
        len: range.end.saturating_sub(range.start),
        node: node_arg(node),
        ..Default::default()
    }
}

/// The control device.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens [`DEVICE`].
    pub fn open() -> Result<Self, Error> {
        File::options()
            .read(true)
            .write(true)
            .open(DEVICE)
            .map(Self)
            .map_err(|e| Error::new("open /dev/privmemfd", e))
    }

    /// Makes a privmemfd of `size` bytes (a multiple of [`PAGE_SIZE`]).
    pub fn create(&self, size: u64, options: Options) -> Result<PrivMemFd, Error> {
        let mut flags = match options.mobility {
            Mobility::Movable => uapi::PRIVMEMFD_MOVABLE,
            Mobility::Pinned => uapi::PRIVMEMFD_PINNED,
        };
        if options.cloexec {
            flags |= uapi::PRIVMEMFD_CLOEXEC;
        }
        let arg = uapi::privmemfd_create {
            size,
            flags: flags.into(),
            node: node_arg(options.node),
            ..Default::default()
        };
        sys::create(self.as_fd(), &arg)
            .map(PrivMemFd)
            .map_err(|e| Error::new("PRIVMEMFD_CREATE", e))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A file of guest-private memory.
///
/// `From<OwnedFd>` takes one that came from elsewhere, such as from
/// `KVM_CREATE_GUEST_MEMFD` with [`GUEST_MEMFD_FLAG_MOVABLE`]; if it is some
/// other file every request gives ENOTTY.
#[derive(Debug)]
pub struct PrivMemFd(OwnedFd);

impl From<OwnedFd> for PrivMemFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<PrivMemFd> for OwnedFd {
    fn from(fd: PrivMemFd) -> Self {
        fd.0
    }
}

impl AsFd for PrivMemFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PrivMemFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl PrivMemFd {
    /// Another descriptor of the same file.
    pub fn try_clone(&self) -> Result<Self, Error> {
        self.0
            .try_clone()
            .map(Self)
            .map_err(|e| Error::new("dup", e))
    }

    /// Counts the pages on all nodes.
    pub fn stat(&self) -> Result<Stat, Error> {
        self.stat_of(None)
    }

    /// Counts the pages on one node.
    pub fn stat_node(&self, node: u32) -> Result<Stat, Error> {
        self.stat_of(Some(node))
    }

    fn stat_of(&self, node: Option<u32>) -> Result<Stat, Error> {
        let mut raw = uapi::privmemfd_stat {
            node: node_arg(node),
            ..Default::default()
        };
        sys::stat(self.as_fd(), &mut raw).map_err(|e| Error::new("PRIVMEMFD_STAT", e))?;
        Ok(Stat::from(&raw))
    }

    /// The page frame number of every page in a range of bytes; `None` where
    /// the file has no memory.
    pub fn pages(&self, range: Range<u64>) -> Result<Vec<Option<u64>>, Error> {
        let len = range.end.saturating_sub(range.start);
        let count = len.div_ceil(PAGE_SIZE);
        let mut pfns = vec![sys::PFN_NONE; usize::try_from(count).unwrap_or(0)];
        sys::pages(self.as_fd(), range.start, len, &mut pfns)
            .map_err(|e| Error::new("PRIVMEMFD_PAGES", e))?;
        Ok(pfns
            .into_iter()
            .map(|pfn| (pfn != sys::PFN_NONE).then_some(pfn))
            .collect())
    }

    /// All pages that have memory: page of the file, and page frame number. Looks at a GiB at
    /// a time and ends with the last of them, for a file may be larger than any memory.
    pub fn resident(&self) -> Result<Vec<(u64, u64)>, Error> {
        let mut found = Vec::new();
        for start in (0..).step_by(RESIDENT_STEP as usize) {
            // Anew each time: pages come and go.
            let (size, pages) = self.extent()?;
            if start >= size || found.len() as u64 >= pages {
                break;
            }
            let pages = self.pages(start..size.min(start + RESIDENT_STEP))?;
            let numbered = (start / PAGE_SIZE..).zip(pages);
            found.extend(numbered.filter_map(|(page, frame)| Some((page, frame?))));
        }
        Ok(found)
    }

    /// Bytes, and pages that have memory. `PRIVMEMFD_STAT` looks at every page for that.
    fn extent(&self) -> Result<(u64, u64), Error> {
        let stat = rustix::fs::fstat(&self.0).map_err(|e| Error::new("fstat", e.into()))?;
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok((
            number(stat.st_size),
            number(stat.st_blocks) * 512 / PAGE_SIZE,
        ))
    }

    /// Moves the pages in a range of bytes to a node, or to any new place.
    /// Returns how many moved. Ends soon after the first page that cannot move;
    /// see [`PrivMemFd::move_pages`].
    pub fn move_range(&self, range: Range<u64>, node: Option<u32>) -> Result<u64, MoveError> {
        let mut raw = move_arg(range, node);
        match sys::move_pages(self.as_fd(), &mut raw) {
            Ok(()) => Ok(raw.moved),
            Err(e) => Err(MoveError {
                moved: raw.moved,
                pages: Vec::new(),
                source: Error::new("PRIVMEMFD_MOVE", e),
            }),
        }
    }

    /// The same, but goes on past pages that cannot move, and tells how each page
    /// has ended.
    pub fn move_pages(&self, range: Range<u64>, node: Option<u32>) -> Result<Moves, MoveError> {
        let mut raw = move_arg(range, node);
        let count = usize::try_from(raw.len.div_ceil(PAGE_SIZE)).unwrap_or(0);
        let mut statuses = vec![PageStatus::UNTOLD; count];
        let result = sys::move_statuses(self.as_fd(), &mut raw, &mut statuses);
        let moved = raw.moved;
        let pages = statuses.into_iter().map(PageStatus::from).collect();
        match result {
            Ok(()) => Ok(Moves { moved, pages }),
            Err(e) => Err(MoveError {
                moved,
                pages,
                source: Error::new("PRIVMEMFD_MOVE", e),
            }),
        }
    }

    /// Gives every page in a range of bytes memory.
    pub fn allocate(&self, range: Range<u64>) -> Result<(), Error> {
        self.fallocate("allocate", FallocateFlags::KEEP_SIZE, range)
    }

    /// Takes the memory of a range of bytes away, from bound guests as well.
    pub fn punch_hole(&self, range: Range<u64>) -> Result<(), Error> {
        self.fallocate(
            "punch hole",
            FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE,
            range,
        )
    }

    fn fallocate(
        &self,
        what: &'static str,
        flags: FallocateFlags,
        range: Range<u64>,
    ) -> Result<(), Error> {
        let len = range.end.saturating_sub(range.start);
        rustix::fs::fallocate(&self.0, flags, range.start, len)
            .map_err(|e| Error::new(what, e.into()))
    }
}
