// SPDX-License-Identifier: GPL-2.0
//! The memory cipher.
//!
//! A real part encrypts memory with AES-XTS, tweaked by the physical address.
//! The model uses a keyed permutation of 64-bit words, tweaked by key and
//! address. It is **not** cryptography: anybody who reads this file can invert
//! it. It exists so that the host sees noise where a TD keeps data, that
//! copying the noise to another address yields garbage for the TD, and that a
//! stray host write decrypts to something else than what was written. It is
//! small, has no dependencies and works on one word at a time, so that the
//! locks inside encrypted structures can still be taken with one
//! compare-and-swap.

const M1: u64 = 0xBF58_476D_1CE4_E5B9;
const M2: u64 = 0x94D0_49BB_1331_11EB;

const fn inverse(odd: u64) -> u64 {
    // Newton: each round doubles the number of correct low bits.
    let mut x = odd;
    let mut i = 0;
    while i < 6 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        i += 1;
    }
    x
}

const I1: u64 = inverse(M1);
const I2: u64 = inverse(M2);

const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 32)).wrapping_mul(M1);
    x = (x ^ (x >> 32)).wrapping_mul(M2);
    x ^ (x >> 32)
}

const fn unmix(mut x: u64) -> u64 {
    x = (x ^ (x >> 32)).wrapping_mul(I2);
    x = (x ^ (x >> 32)).wrapping_mul(I1);
    x ^ (x >> 32)
}

const fn tweak(key: u64, pa: u64) -> (u64, u64) {
    let a = mix(key ^ pa.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    (a, mix(a ^ key.rotate_left(32)))
}

/// Encrypts the word at `pa`. Key 0 is the identity.
#[must_use]
pub const fn encrypt(key: u64, pa: u64, word: u64) -> u64 {
    if key == 0 {
        return word;
    }
    let (a, b) = tweak(key, pa);
    mix(word ^ a) ^ b
}

/// Decrypts the word at `pa`.
#[must_use]
pub const fn decrypt(key: u64, pa: u64, word: u64) -> u64 {
    if key == 0 {
        return word;
    }
    let (a, b) = tweak(key, pa);
    unmix(word ^ b) ^ a
}

/// One step of the integrity tag of a line.
#[must_use]
pub const fn absorb(state: u64, word: u64) -> u64 {
    mix(state ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15)
}

/// A stand-in for the compression function of a hash: every word of the block changes
/// every word of the state.
pub fn mix_block(state: &mut [u64; 8], block: &[u8; 128]) {
    for bytes in block.chunks_exact(8) {
        let mut word = [0; 8];
        word.copy_from_slice(bytes);
        let mut carry = u64::from_le_bytes(word);
        for (i, lane) in state.iter_mut().enumerate() {
            *lane = absorb(*lane ^ (i as u64) << 56, carry);
            carry = *lane;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for i in 0..1000u64 {
            let (k, pa, w) = (mix(i) | 1, i * 8, mix(i ^ 77));
            assert_eq!(decrypt(k, pa, encrypt(k, pa, w)), w);
            assert_ne!(encrypt(k, pa, w), w);
        }
        assert_eq!(encrypt(0, 8, 5), 5);
    }

    #[test]
    fn address_is_a_tweak() {
        let c = encrypt(7, 0x1000, 42);
        assert_ne!(decrypt(7, 0x2000, c), 42);
        assert_ne!(decrypt(8, 0x1000, c), 42);
    }
}
