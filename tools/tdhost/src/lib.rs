// SPDX-License-Identifier: GPL-2.0
//! TDs without KVM, for tests: one typed method per ioctl of tdhost.ko.
//!
//! ```no_run
//! use tdhost::{Command, Device, PAGE};
//!
//! # fn main() -> std::io::Result<()> {
//! # let memory = std::fs::File::open("/dev/null")?;
//! let td = Device::open()?.create(&memory, 16, 1, false)?;
//! td.add(0..16 * PAGE, 7)?;
//! td.finalize()?;
//! let report = td.run(0, Command::Verify(7), 0..16 * PAGE)?;
//! assert_eq!(report.mismatches, 0);
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

pub mod uapi;

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::ioctl::Opcode;
use uapi::*;

/// Where the device is.
pub const DEVICE: &str = "/dev/tdhost";
/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// The SEAMCALL leaves that moving a page takes.
pub const MOVE_LEAVES: [&str; 5] = [
    "TDH.MEM.RANGE.BLOCK",
    "TDH.MEM.TRACK",
    "TDH.MEM.PAGE.RELOCATE",
    "TDH.MEM.RANGE.UNBLOCK",
    "TDH.PHYMEM.PAGE.WBINVD",
];

/// Any request with any argument, even an address nobody can read.
///
/// # Safety
///
/// The kernel may write what `request` says it writes to `arg`.
pub unsafe fn raw(fd: BorrowedFd<'_>, request: Opcode, arg: *mut c_void) -> io::Result<i32> {
    // SAFETY: the descriptor is open; the caller answers for the memory.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, arg) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

/// A request with the structure it is for.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident, $number:ident, $arg:ident) => {
        $(#[$doc])*
        pub fn $name(td: BorrowedFd<'_>, arg: &mut $arg) -> io::Result<()> {
            // SAFETY: the argument is exclusively borrowed and holds no pointers.
            unsafe { raw(td, $number, (&raw mut *arg).cast()) }.map(drop)
        }
    };
}

/// The requests of a TD with their plain structures, any content allowed.
pub mod sys {
    use super::*;

    request!(
        /// `TDHOST_ADD`
        add, TDHOST_ADD, tdhost_pages
    );
    request!(
        /// `TDHOST_AUG`
        aug, TDHOST_AUG, tdhost_pages
    );
    request!(
        /// `TDHOST_RUN`
        run, TDHOST_RUN, tdhost_run
    );
    request!(
        /// `TDHOST_READ`
        read, TDHOST_READ, tdhost_read
    );
    request!(
        /// `TDHOST_SEPT`
        sept, TDHOST_SEPT, tdhost_sept
    );
    request!(
        /// `TDHOST_STAT`
        stat, TDHOST_STAT, tdhost_stat
    );

    /// `TDHOST_CREATE_TD`
    pub fn create(device: BorrowedFd<'_>, arg: &tdhost_create) -> io::Result<OwnedFd> {
        let mut arg = *arg;
        // SAFETY: the argument is a private copy and holds no pointers.
        let fd = unsafe { raw(device, TDHOST_CREATE_TD, (&raw mut arg).cast())? };
        // SAFETY: the kernel just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// What a guest is told to do with a range of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Go on with the command that a signal has interrupted.
    Continue,
    /// Accept every page.
    Accept,
    /// Write what belongs to this seed to every word.
    Fill(u64),
    /// Compare every word with what belongs to this seed.
    Verify(u64),
    /// Read a word of each page, so many times.
    Touch(u64),
    /// Stay in the guest for so many bursts.
    Spin(u64),
    /// Count in the first word of each page up to this, and compare.
    Stamp(u64),
}

impl Command {
    fn numbers(self) -> (u32, u64) {
        match self {
            Command::Continue => (0, 0),
            Command::Accept => (TDXEMU_ACCEPT, 0),
            Command::Fill(seed) => (TDXEMU_FILL, seed),
            Command::Verify(seed) => (TDXEMU_VERIFY, seed),
            Command::Touch(passes) => (TDXEMU_TOUCH, passes),
            Command::Spin(bursts) => (TDXEMU_SPIN, bursts),
            Command::Stamp(passes) => (TDXEMU_STAMP, passes),
        }
    }
}

/// What a guest says when it has done a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Why the command ended before its end, or 0.
    pub code: u64,
    /// Pages worked on.
    pub pages: u64,
    /// Words that were not as expected.
    pub mismatches: u64,
    /// Where the first of them is.
    pub mismatch_gpa: u64,
    /// Times that the guest was entered for it.
    pub entries: u64,
    /// EPT violations on the way.
    pub faults: u64,
}

/// A request that did part of its work, or a guest that ended early.
#[derive(Debug)]
pub struct PagesError {
    /// Pages done.
    pub done: u64,
    /// Why it stopped.
    pub source: io::Error,
}

/// State of an entry of the secure EPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeptState {
    /// There is no page.
    Free,
    /// The page has content, but the guest cannot use it now.
    Blocked,
    /// The page waits to be accepted.
    Pending,
    /// The page waits to be accepted, but the guest cannot do that now.
    PendingBlocked,
    /// The page has content.
    Mapped,
    /// Another one of the TDX module.
    Other(u32),
}

/// An entry of the secure EPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sept {
    /// Its state.
    pub state: SeptState,
    /// Page frame number that the entry has, or 0.
    pub pfn: u64,
    /// Page frame number that the host believes it has, or 0.
    pub mirror: u64,
}

/// The device.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens [`DEVICE`].
    pub fn open() -> io::Result<Self> {
        File::options()
            .read(true)
            .write(true)
            .open(DEVICE)
            .map(Self)
    }

    /// Makes a TD; page `n` of the privmemfd is at guest address `n * PAGE`.
    pub fn create(
        &self,
        memory: &impl AsFd,
        pages: u64,
        vcpus: u32,
        debug: bool,
    ) -> io::Result<Td> {
        let arg = tdhost_create {
            flags: if debug { TDHOST_TD_DEBUG } else { 0 },
            pages,
            memory: memory.as_fd().as_raw_fd(),
            vcpus,
            ..Default::default()
        };
        sys::create(self.as_fd(), &arg).map(Td)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A TD; dropping the last descriptor destroys it.
#[derive(Debug)]
pub struct Td(OwnedFd);

impl AsFd for Td {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn pages_of(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start).div_ceil(PAGE)
}

impl Td {
    fn pages(
        &self,
        request: fn(BorrowedFd<'_>, &mut tdhost_pages) -> io::Result<()>,
        range: Range<u64>,
        seed: u64,
    ) -> Result<(), PagesError> {
        let mut arg = tdhost_pages {
            gpa: range.start,
            pages: pages_of(&range),
            seed,
            ..Default::default()
        };
        request(self.as_fd(), &mut arg).map_err(|source| PagesError {
            done: arg.done,
            source,
        })
    }

    /// Gives the TD pages with content, before it is finalized.
    pub fn add(&self, range: Range<u64>, seed: u64) -> Result<(), PagesError> {
        self.pages(sys::add, range, seed)
    }

    /// Gives the TD pages that it has to accept.
    pub fn aug(&self, range: Range<u64>) -> Result<(), PagesError> {
        self.pages(sys::aug, range, 0)
    }

    /// Lets the TD run from now on.
    pub fn finalize(&self) -> io::Result<()> {
        // SAFETY: the request has no argument.
        unsafe { raw(self.as_fd(), TDHOST_FINALIZE, std::ptr::null_mut()) }.map(drop)
    }

    /// Runs a vCPU on the caller's CPU until the guest has done the command.
    pub fn run(&self, vcpu: u32, command: Command, range: Range<u64>) -> io::Result<Report> {
        let (command, value) = command.numbers();
        let mut arg = tdhost_run {
            vcpu,
            command,
            gpa: range.start,
            pages: pages_of(&range),
            arg: value,
            ..Default::default()
        };
        sys::run(self.as_fd(), &mut arg)?;
        Ok(Report {
            code: arg.report,
            pages: arg.done,
            mismatches: arg.mismatches,
            mismatch_gpa: arg.mismatch_gpa,
            entries: arg.entries,
            faults: arg.faults,
        })
    }

    /// A word of a debuggable TD.
    pub fn read(&self, gpa: u64) -> io::Result<u64> {
        let mut arg = tdhost_read {
            gpa,
            ..Default::default()
        };
        sys::read(self.as_fd(), &mut arg).map(|()| arg.value)
    }

    /// An entry of the secure EPT.
    pub fn sept(&self, gpa: u64) -> io::Result<Sept> {
        let mut arg = tdhost_sept {
            gpa,
            ..Default::default()
        };
        sys::sept(self.as_fd(), &mut arg)?;
        let state = match arg.state {
            // An entry above the page: there is no table.
            _ if arg.level > 0 => SeptState::Free,
            TDHOST_SEPT_FREE => SeptState::Free,
            TDHOST_SEPT_BLOCKED => SeptState::Blocked,
            TDHOST_SEPT_PENDING => SeptState::Pending,
            TDHOST_SEPT_PENDING_BLOCKED => SeptState::PendingBlocked,
            TDHOST_SEPT_MAPPED => SeptState::Mapped,
            other => SeptState::Other(other),
        };
        Ok(Sept {
            state,
            pfn: arg.pfn,
            mirror: arg.mirror,
        })
    }

    /// Counts.
    pub fn stat(&self) -> io::Result<tdhost_stat> {
        let mut arg = tdhost_stat::default();
        sys::stat(self.as_fd(), &mut arg).map(|()| arg)
    }

    /// Whether the TD is lost.
    pub fn is_dead(&self) -> bool {
        self.stat().is_ok_and(|s| s.dead != 0)
    }
}

impl PagesError {
    /// The errno that the kernel gave.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

impl std::fmt::Display for PagesError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} after {} pages", self.source, self.done)
    }
}

impl std::error::Error for PagesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl From<PagesError> for io::Error {
    fn from(e: PagesError) -> Self {
        e.source
    }
}

/// What [`Command::Fill`] writes to the word at an address.
pub fn word(seed: u64, gpa: u64) -> u64 {
    (seed ^ gpa).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
