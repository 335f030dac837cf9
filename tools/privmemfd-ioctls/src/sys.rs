// SPDX-License-Identifier: GPL-2.0
//! The requests with their plain structures, any content allowed.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::ioctl::{opcode, Opcode};

use crate::uapi::{
    privmemfd_create, privmemfd_move, privmemfd_pages, privmemfd_stat, PRIVMEMFD_IOC,
    PRIVMEMFD_MOVE_STATUS,
};

const GROUP: u8 = PRIVMEMFD_IOC as u8;
/// Number of `PRIVMEMFD_CREATE`.
pub const CREATE: Opcode = opcode::write::<privmemfd_create>(GROUP, 0);
/// Number of `PRIVMEMFD_STAT`.
pub const STAT: Opcode = opcode::read_write::<privmemfd_stat>(GROUP, 1);
/// Number of `PRIVMEMFD_PAGES`.
pub const PAGES: Opcode = opcode::write::<privmemfd_pages>(GROUP, 2);
/// Number of `PRIVMEMFD_MOVE`.
pub const MOVE: Opcode = opcode::read_write::<privmemfd_move>(GROUP, 3);
/// `PRIVMEMFD_PFN_NONE`, which bindgen takes for a signed number.
pub const PFN_NONE: u64 = !0;

/// Any request with any argument, even an address nobody can read.
///
/// # Safety
///
/// The kernel may write what `request` says it writes to `arg`, and through
/// pointers found there.
pub unsafe fn raw(fd: BorrowedFd<'_>, request: Opcode, arg: *mut c_void) -> io::Result<i32> {
    // SAFETY: the descriptor is open; the caller answers for the memory.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, arg) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

/// `PRIVMEMFD_CREATE` on `/dev/privmemfd`.
pub fn create(device: BorrowedFd<'_>, arg: &privmemfd_create) -> io::Result<OwnedFd> {
    let mut arg = *arg;
    // SAFETY: the argument is a private copy and holds no pointers.
    let fd = unsafe { raw(device, CREATE, (&raw mut arg).cast())? };
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `PRIVMEMFD_STAT` on a privmemfd.
pub fn stat(fd: BorrowedFd<'_>, arg: &mut privmemfd_stat) -> io::Result<()> {
    // SAFETY: the argument is exclusively borrowed and holds no pointers.
    unsafe { raw(fd, STAT, (&raw mut *arg).cast()) }.map(drop)
}

/// `PRIVMEMFD_PAGES` on a privmemfd, with an array that is as long as the range.
pub fn pages(fd: BorrowedFd<'_>, offset: u64, len: u64, pfns: &mut [u64]) -> io::Result<()> {
    assert!(pfns.len() as u64 >= len.div_ceil(crate::PAGE_SIZE));
    let arg = privmemfd_pages {
        offset,
        len,
        pfns: pfns.as_mut_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: the array is exclusively borrowed and long enough, see above.
    unsafe { pages_at(fd, &arg) }
}

/// `PRIVMEMFD_PAGES` with an array anywhere.
///
/// # Safety
///
/// The kernel writes 8 bytes per page at `arg.pfns`.
pub unsafe fn pages_at(fd: BorrowedFd<'_>, arg: &privmemfd_pages) -> io::Result<()> {
    let mut arg = *arg;
    // SAFETY: the argument is a private copy; the caller answers for the array.
    unsafe { raw(fd, PAGES, (&raw mut arg).cast()) }.map(drop)
}

/// `PRIVMEMFD_MOVE` on a privmemfd, without an array of statuses.
pub fn move_pages(fd: BorrowedFd<'_>, arg: &mut privmemfd_move) -> io::Result<()> {
    assert_eq!(arg.status, 0, "an array of statuses");
    // SAFETY: there is no array that could be written.
    unsafe { move_at(fd, arg) }
}

/// `PRIVMEMFD_MOVE` with `PRIVMEMFD_MOVE_STATUS` and an array that is as long as
/// the range.
pub fn move_statuses(
    fd: BorrowedFd<'_>,
    arg: &mut privmemfd_move,
    statuses: &mut [i32],
) -> io::Result<()> {
    assert!(statuses.len() as u64 >= arg.len.div_ceil(crate::PAGE_SIZE));
    arg.flags |= PRIVMEMFD_MOVE_STATUS;
    arg.status = statuses.as_mut_ptr() as u64;
    // SAFETY: the array is exclusively borrowed and long enough, see above.
    unsafe { move_at(fd, arg) }
}

/// `PRIVMEMFD_MOVE` with an array of statuses anywhere.
///
/// # Safety
///
/// With `PRIVMEMFD_MOVE_STATUS` the kernel writes 4 bytes per page at
/// `arg.status`.
pub unsafe fn move_at(fd: BorrowedFd<'_>, arg: &mut privmemfd_move) -> io::Result<()> {
    // SAFETY: the argument is exclusively borrowed; the caller answers for the
    // array.
    unsafe { raw(fd, MOVE, (&raw mut *arg).cast()) }.map(drop)
}
