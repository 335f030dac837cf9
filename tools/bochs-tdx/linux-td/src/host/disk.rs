// SPDX-License-Identifier: GPL-2.0
//! The TD's disk.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Its size in MiB.
pub const DISK_MIB: u64 = 4;

/// A disk that init knows: in MiB `n`, cell `i` holds what `td-init` computes too.
///
/// # Errors
/// It cannot be written.
pub fn make_disk(path: &Path) -> anyhow::Result<()> {
    const SEED: u64 = 0x5444_4449_534B;
    const MIB: u64 = 1 << 20;
    let mut content = Vec::new();
    for n in 0..DISK_MIB {
        for i in 0..MIB / 8 {
            let z = (SEED ^ n << 24 ^ i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            content.extend_from_slice(&(z ^ z >> 27).to_le_bytes());
        }
    }
    fs::write(path, content).context("cannot make the TD's disk")
}
