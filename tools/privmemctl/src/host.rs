// SPDX-License-Identifier: GPL-2.0
//! What the host is set to, as far as it decides whether pages move.

use std::fs;
use std::path::Path;

const SYSCTL: &str = "/proc/sys/vm";

/// What keeps compaction off the pages of every movable file, and what to do
/// about it; `None` if nothing does.
pub fn compaction_obstacle() -> Option<&'static str> {
    compaction_obstacle_in(Path::new(SYSCTL))
}

fn compaction_obstacle_in(sysctl: &Path) -> Option<&'static str> {
    match fs::read_to_string(sysctl.join("compact_unevictable_allowed")) {
        Ok(value) if value.trim() == "0" => Some(
            "vm.compact_unevictable_allowed is 0: compaction passes over these pages, \
             which still move for offlining, contiguous allocations and `privmemctl move` \
             (sysctl vm.compact_unevictable_allowed=1 lets it move them)",
        ),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Some("this kernel does not compact memory (CONFIG_COMPACTION is not set)")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sysctl_and_the_kernel_may_be_in_the_way() {
        let dir = std::env::temp_dir().join(format!("privmemctl-sysctl-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("compact_unevictable_allowed");
        let with = |value| {
            fs::write(&file, value).unwrap();
            compaction_obstacle_in(&dir)
        };
        assert!(with("0\n").unwrap().contains("is 0"));
        assert_eq!(with("1\n"), None);
        fs::remove_file(&file).unwrap();
        let none = compaction_obstacle_in(&dir);
        fs::remove_dir(&dir).unwrap();
        assert!(none.unwrap().contains("CONFIG_COMPACTION"));
    }
}
