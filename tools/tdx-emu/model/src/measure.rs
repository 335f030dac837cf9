// SPDX-License-Identifier: GPL-2.0
//! SHA-384 over whole blocks, on the platform's compression function.
//!
//! All that the module measures incrementally comes in blocks of 128 bytes: the
//! records of MEM.PAGE.ADD and MR.EXTEND, and the content behind the latter. So a
//! measurement in progress is the state between two blocks and their number.

use crate::mem::Platform;

/// Bytes of a block.
pub const BLOCK: usize = 128;
/// Words of a digest.
pub const DIGEST: usize = 6;

/// The initial state (FIPS 180-4, 5.3.4).
pub const INITIAL: [u64; 8] = [
    0xCBBB_9D5D_C105_9ED8,
    0x629A_292A_367C_D507,
    0x9159_015A_3070_DD17,
    0x152F_ECD8_F70E_5939,
    0x6733_2667_FFC0_0B31,
    0x8EB4_4A87_6858_1511,
    0xDB0C_2E0D_64F9_8FA7,
    0x47B5_481D_BEFA_4FA4,
];

/// Words of memory, as a block of bytes.
#[must_use]
pub fn block(words: impl Iterator<Item = u64>) -> [u8; BLOCK] {
    let mut b = [0; BLOCK];
    for (i, w) in words.take(BLOCK / 8).enumerate() {
        b[8 * i..8 * i + 8].copy_from_slice(&w.to_le_bytes());
    }
    b
}

/// The digest of a message of `blocks` blocks that left `state`, and of `tail` behind
/// them, fewer bytes than a block; as words of memory.
pub fn digest(
    p: &(impl Platform + ?Sized),
    state: &[u64; 8],
    blocks: u64,
    tail: &[u8],
) -> [u64; DIGEST] {
    let mut state = *state;
    let n = tail.len().min(BLOCK - 1);
    let mut last = [0; BLOCK];
    last[..n].copy_from_slice(&tail[..n]);
    last[n] = 0x80;
    // The length takes the last 16 bytes.
    if n >= BLOCK - 16 {
        p.sha512_block(&mut state, &last);
        last = [0; BLOCK];
    }
    let bits = (blocks * BLOCK as u64 + n as u64) * 8;
    last[BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
    p.sha512_block(&mut state, &last);
    core::array::from_fn(|i| state[i].swap_bytes())
}

/// The digest of a message of words of memory.
pub fn digest_of(p: &(impl Platform + ?Sized), words: impl Iterator<Item = u64>) -> [u64; DIGEST] {
    let (mut state, mut blocks) = (INITIAL, 0);
    let (mut pending, mut n) = ([0; BLOCK], 0);
    for w in words {
        pending[n..n + 8].copy_from_slice(&w.to_le_bytes());
        n += 8;
        if n == BLOCK {
            p.sha512_block(&mut state, &pending);
            (n, blocks) = (0, blocks + 1);
        }
    }
    digest(p, &state, blocks, &pending[..n])
}
