// SPDX-License-Identifier: GPL-2.0
//! What the kernel tells of page frames: `/proc/kpageflags` and `/proc/kpagecgroup`.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Numbers of one read.
const AT_A_TIME: usize = 1 << 16;

/// Flags of a frame, bits of `include/uapi/linux/kernel-page-flags.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u64);

impl Flags {
    const LRU: u64 = 1 << 5;
    const SLAB: u64 = 1 << 7;
    const BUDDY: u64 = 1 << 10;
    const MMAP: u64 = 1 << 11;
    const ANON: u64 = 1 << 12;
    const COMPOUND: u64 = 3 << 15;
    const HUGE: u64 = 1 << 17;
    const UNEVICTABLE: u64 = 1 << 18;
    const HWPOISON: u64 = 1 << 19;
    const NOPAGE: u64 = 1 << 20;
    const THP: u64 = 1 << 22;
    const OFFLINE: u64 = 1 << 23;
    const PGTABLE: u64 = 1 << 26;
    const RESERVED: u64 = 1 << 32;
    const MLOCKED: u64 = 1 << 33;

    fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Whether processes map it.
    pub fn is_mapped(self) -> bool {
        self.has(Self::MMAP)
    }

    /// Whether its memory has failed.
    pub fn has_failed(self) -> bool {
        self.has(Self::HWPOISON)
    }

    /// What the frame is used for, by its flags alone.
    pub fn usage(self) -> Usage {
        if self.has(Self::NOPAGE) {
            Usage::Hole
        } else if self.has(Self::HWPOISON) {
            Usage::Failed
        } else if self.has(Self::RESERVED) {
            Usage::Reserved
        } else if self.has(Self::BUDDY) {
            Usage::Free
        } else if self.has(Self::SLAB) {
            Usage::Slab
        } else if self.has(Self::PGTABLE) {
            Usage::PageTables
        } else if self.has(Self::OFFLINE) {
            Usage::Driver
        } else if self.has(Self::HUGE) {
            Usage::HugePages
        } else if self.has(Self::LRU) {
            if self.has(Self::ANON) {
                Usage::Anonymous
            } else if self.has(Self::UNEVICTABLE) && !self.has(Self::MLOCKED | Self::MMAP) {
                Usage::Unevictable
            } else {
                Usage::File
            }
        } else if self.has(Self::MMAP | Self::ANON | Self::THP) {
            // Off the lists for a moment, or the tail of a large folio.
            if self.has(Self::ANON) {
                Usage::Anonymous
            } else {
                Usage::File
            }
        } else if self.has(Self::COMPOUND) {
            Usage::Kernel
        } else {
            Usage::Untyped
        }
    }
}

/// What a frame is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    /// There is no memory, or it is offline.
    Hole,
    /// In the allocator's lists.
    Free,
    /// Its memory has failed.
    Failed,
    /// Taken at boot, or kept by the TDX module.
    Reserved,
    /// Objects of the kernel's.
    Slab,
    /// Page tables.
    PageTables,
    /// A driver has taken it out of use, as balloons do.
    Driver,
    /// hugetlb.
    HugePages,
    /// Memory of processes.
    Anonymous,
    /// Page cache.
    File,
    /// Page cache that cannot be reclaimed and that nobody maps: a privmemfd or a
    /// guest_memfd, but also ramfs.
    Unevictable,
    /// The kernel's own.
    Kernel,
    /// The kernel's own, or free on the list of a CPU.
    Untyped,
}

impl Usage {
    /// Whether mm moves it, or need not, when a range in ZONE_MOVABLE or elsewhere
    /// is to become free.
    pub fn moves(self, movable_zone: bool) -> Moves {
        match self {
            Self::Hole | Self::Free => Moves::Gone,
            Self::Anonymous | Self::File | Self::HugePages => Moves::Yes,
            Self::Failed => Moves::Passed,
            Self::Reserved => Moves::Never,
            Self::Slab | Self::PageTables | Self::Kernel => Moves::Never,
            // In ZONE_MOVABLE there is nothing of the kernel's own.
            Self::Untyped if movable_zone => Moves::Gone,
            Self::Untyped | Self::Driver | Self::Unevictable => Moves::Perhaps,
        }
    }

    /// In words, for a number of frames.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hole => "no memory, or offline",
            Self::Free => "free",
            Self::Failed => "memory that has failed",
            Self::Reserved => "reserved",
            Self::Slab => "kernel objects (slab)",
            Self::PageTables => "page tables",
            Self::Driver => "taken by a driver (balloon)",
            Self::HugePages => "huge pages (hugetlb)",
            Self::Anonymous => "anonymous memory",
            Self::File => "page cache",
            Self::Unevictable => "unevictable page cache",
            Self::Kernel => "the kernel's own",
            Self::Untyped => "the kernel's own, or just freed",
        }
    }
}

/// Whether something goes when its memory is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moves {
    /// It stays.
    Never,
    /// The kernel does not tell.
    Perhaps,
    /// mm moves it.
    Yes,
    /// mm passes over it.
    Passed,
    /// Nothing is there.
    Gone,
}

/// Flags of a range of frames; those beyond the last are [`Usage::Hole`]s.
pub fn flags(frames: Range<u64>) -> io::Result<Vec<Flags>> {
    let mut all: Vec<Flags> = numbers("/proc/kpageflags", &frames)?
        .into_iter()
        .map(Flags)
        .collect();
    let count = usize::try_from(frames.end.saturating_sub(frames.start)).unwrap_or(usize::MAX);
    all.resize(count, Flags(Flags::NOPAGE));
    Ok(all)
}

fn numbers(path: &str, frames: &Range<u64>) -> io::Result<Vec<u64>> {
    let file = File::open(path)?;
    let mut all = Vec::new();
    let mut next = frames.start;
    while next < frames.end {
        let count = (frames.end - next).min(AT_A_TIME as u64);
        let mut bytes = vec![0; count as usize * 8];
        let read = file.read_at(&mut bytes, next * 8)? / 8;
        if read == 0 {
            break;
        }
        let words = bytes[..read * 8].chunks_exact(8);
        all.extend(words.map(|w| u64::from_ne_bytes(w.try_into().expect("eight bytes"))));
        next += read as u64;
    }
    Ok(all)
}

/// The memory cgroup that a frame is charged to, as a path below the root of cgroups;
/// `None` where none is, or the kernel does not tell.
pub fn cgroup(frame: u64) -> Option<String> {
    let inode = *numbers("/proc/kpagecgroup", &(frame..frame + 1))
        .ok()?
        .first()?;
    let root = Path::new("/sys/fs/cgroup");
    let found = (inode != 0).then(|| find_inode(root, inode)).flatten()?;
    let below = found.strip_prefix(root).ok()?.display().to_string();
    Some(format!("/{below}"))
}

fn find_inode(dir: &Path, inode: u64) -> Option<PathBuf> {
    if fs::metadata(dir).ok()?.ino() == inode {
        return Some(dir.to_owned());
    }
    fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .find_map(|e| find_inode(&e.path(), inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_tell_what_a_frame_is_used_for() {
        for (flags, usage) in [
            (Flags::BUDDY, Usage::Free),
            (Flags::LRU | Flags::UNEVICTABLE, Usage::Unevictable),
            (Flags::LRU | Flags::UNEVICTABLE | Flags::MMAP, Usage::File),
            (
                Flags::LRU | Flags::UNEVICTABLE | Flags::MLOCKED | Flags::ANON,
                Usage::Anonymous,
            ),
            (Flags::LRU | Flags::HWPOISON, Usage::Failed),
            (Flags::RESERVED | Flags::LRU, Usage::Reserved),
            (Flags::SLAB, Usage::Slab),
            (Flags::MMAP | Flags::ANON, Usage::Anonymous),
            (1 << 15, Usage::Kernel),
            (Flags::NOPAGE, Usage::Hole),
            (0, Usage::Untyped),
        ] {
            assert_eq!(Flags(flags).usage(), usage, "{flags:#x}");
        }
    }

    #[test]
    fn only_a_movable_zone_tells_that_an_untyped_frame_is_free() {
        assert_eq!(Usage::Untyped.moves(true), Moves::Gone);
        assert_eq!(Usage::Untyped.moves(false), Moves::Perhaps);
        assert_eq!(Usage::Reserved.moves(true), Moves::Never);
    }
}
