// SPDX-License-Identifier: GPL-2.0
//! Which processes map a frame, by `/proc/pid/pagemap`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::memory::{frame, PAGE_SIZE};
use crate::owners::processes;

/// Entries of one read.
const AT_A_TIME: u64 = 1 << 16;

/// Calls `seen` with process and frame for each page that a process maps in one of these
/// ranges of frames. Processes that end meanwhile, or are not ours to look at, are left out.
pub fn for_each_mapped(ranges: &[Range<u64>], mut seen: impl FnMut(i32, u64)) {
    for pid in processes().unwrap_or_default() {
        let Ok(pagemap) = File::open(format!("/proc/{pid}/pagemap")) else {
            continue;
        };
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        for mapping in maps.lines().filter_map(range_of) {
            let mut page = mapping.start / PAGE_SIZE;
            let end = mapping.end / PAGE_SIZE;
            while page < end {
                let mut bytes = vec![0; (end - page).min(AT_A_TIME) as usize * 8];
                let read = pagemap.read_at(&mut bytes, page * 8).unwrap_or(0) / 8;
                if read == 0 {
                    break;
                }
                for entry in bytes[..read * 8].chunks_exact(8) {
                    let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
                    match frame(entry) {
                        Some(pfn) if ranges.iter().any(|r| r.contains(&pfn)) => seen(pid, pfn),
                        _ => {}
                    }
                }
                page += read as u64;
            }
        }
    }
}

/// Addresses of a line of `/proc/pid/maps`.
fn range_of(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// Pages by process, the most first.
pub fn by_pages(pages: BTreeMap<i32, u64>) -> Vec<(i32, u64)> {
    let mut all: Vec<(i32, u64)> = pages.into_iter().collect();
    all.sort_by_key(|(pid, pages)| (std::cmp::Reverse(*pages), *pid));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_found() {
        assert_eq!(
            range_of("7f00-8000 r-xp 0 00:00 0  /x"),
            Some(0x7f00..0x8000)
        );
        assert_eq!(range_of("nothing"), None);
        assert_eq!(
            by_pages(BTreeMap::from([(1, 2), (2, 9), (3, 2)])),
            [(2, 9), (1, 2), (3, 2)]
        );
    }
}
