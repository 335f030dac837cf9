// SPDX-License-Identifier: GPL-2.0
//! Which pages of which privmemfd lie in a piece of memory.

use std::ops::Range;

use privmemfd_ioctls::{Error, PrivMemFd, Stat, PAGE_SIZE};

use crate::owners::Owner;

/// Pages of a file with their frames, in the order of the file.
pub type FilePages = Vec<(u64, u64)>;

/// A file that a process has open.
#[derive(Debug)]
pub struct OpenFile {
    /// Everybody who has it open.
    pub owners: Vec<Owner>,
    /// The file.
    pub file: PrivMemFd,
    /// What the kernel counts about it.
    pub stat: Stat,
}

impl OpenFile {
    /// Every file that a process has open, each once; what closes meanwhile is left out.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read, or not root.
    pub fn all() -> anyhow::Result<Vec<Self>> {
        let mut files: Vec<Self> = Vec::new();
        for owner in crate::owners::scan()? {
            if let Some(known) = files.iter_mut().find(|f| f.owners[0].ino == owner.ino) {
                known.owners.push(owner);
                continue;
            }
            let file = match crate::owners::reach(owner.pid, owner.fd) {
                Ok(file) => file,
                Err(_) if !std::path::Path::new(&format!("/proc/{}", owner.pid)).exists() => {
                    continue
                }
                Err(e) => return Err(e),
            };
            files.push(Self {
                stat: file.stat()?,
                owners: vec![owner],
                file,
            });
        }
        Ok(files)
    }

    /// Its pages that lie in one of these ranges of frames: page of the file, and frame.
    pub fn pages_in(&self, frames: &[Range<u64>]) -> Result<FilePages, Error> {
        let mut found = self.file.resident()?;
        found.retain(|(_, frame)| frames.iter().any(|r| r.contains(frame)));
        Ok(found)
    }
}

/// Pages of a file, as ranges of bytes.
pub fn runs(pages: &[(u64, u64)]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (page, _) in pages {
        let start = page * PAGE_SIZE;
        match runs.last_mut() {
            Some(run) if run.end == start => run.end += PAGE_SIZE,
            _ => runs.push(start..start + PAGE_SIZE),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_run() {
        assert_eq!(
            runs(&[(0, 9), (1, 7), (3, 8)]),
            [0..2 * PAGE_SIZE, 3 * PAGE_SIZE..4 * PAGE_SIZE]
        );
        assert!(runs(&[]).is_empty());
    }
}
