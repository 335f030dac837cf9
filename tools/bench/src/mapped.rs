// SPDX-License-Identifier: GPL-2.0
//! What a privmemfd is compared with: a memfd that this process has mapped.

use std::io;

use anyhow::Context;
use privmemctl::memory::own_frames;
use rustix::fs::MemfdFlags;
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use selftests::fixtures::PAGE;

/// A mapped memfd, all of it present and written to.
pub struct Mapped {
    at: *mut u8,
    size: u64,
}

impl Mapped {
    /// Makes one of `size` bytes.
    pub fn new(size: u64) -> anyhow::Result<Self> {
        let fd = rustix::fs::memfd_create("bench", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, size)?;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping in a place of the kernel's choice.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                size as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                &fd,
                0,
            )?
        };
        let this = Self {
            at: at.cast(),
            size,
        };
        for offset in (0..size).step_by(PAGE as usize) {
            // SAFETY: inside the mapping, which nothing else refers to.
            unsafe { this.at.add(offset as usize).write_volatile(1) };
        }
        Ok(this)
    }

    fn pages(&self) -> usize {
        (self.size / PAGE) as usize
    }

    /// Moves all pages to a node by move_pages(2); says how many are there then.
    pub fn move_to(&self, node: u32) -> anyhow::Result<u64> {
        const MOVE_ALL: i32 = 4;
        let count = self.pages();
        let pages: Vec<*mut u8> = (0..count)
            .map(|i| self.at.wrapping_add(i * PAGE as usize))
            .collect();
        let nodes = vec![node as i32; count];
        let mut status = vec![0i32; count];
        // SAFETY: three arrays of `count` elements, the last one writable.
        let r = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                count,
                pages.as_ptr(),
                nodes.as_ptr(),
                status.as_mut_ptr(),
                MOVE_ALL,
            )
        };
        if r < 0 {
            return Err(io::Error::last_os_error()).context("move_pages");
        }
        Ok(status.iter().filter(|s| **s == node as i32).count() as u64)
    }

    /// Page frame numbers, from /proc/self/pagemap.
    pub fn pfns(&self) -> anyhow::Result<Vec<Option<u64>>> {
        Ok(own_frames(self.at as u64, self.pages())?)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing refers to any more.
        let _ = unsafe { munmap(self.at.cast(), self.size as usize) };
    }
}
