// SPDX-License-Identifier: GPL-2.0
//! Entries of the S-EPTs of L2 VMs.
//!
//! An L2 entry is an alias of an L1 entry with permissions of its own. While
//! it is blocked, bits 5:3 and 59 keep the permissions it had.

use crate::sept::{HPA, IPAT, MT, MT_WB, PS, R, SVE, W, X, XU};

/// Saved W of a blocked leaf.
pub const TDWR: u64 = 1 << 59;
const TDB: u64 = 1 << 55;
const VGP: u64 = 1 << 57;
const PWA: u64 = 1 << 58;
const SSS: u64 = 1 << 60;
const SAVED_R: u64 = 1 << 3;
const SAVED_X: u64 = 1 << 4;
const SAVED_XU: u64 = 1 << 5;
const PERMS: u64 = R | W | X | XU;
const STATE: u64 = R | IPAT | PS | TDB;

/// Initial value of an entry of a fresh L2 S-EPT page.
pub const INIT: u64 = 0;

/// Nothing there.
#[must_use]
pub const fn is_free(e: u64) -> bool {
    e & STATE == 0
}
/// A blocked leaf.
#[must_use]
pub const fn is_blocked(e: u64) -> bool {
    e & (STATE & !R) == IPAT | PS | TDB
}
const fn is_mapped(e: u64) -> bool {
    e & (STATE & !R) == IPAT | PS
}
const fn is_nl_blocked(e: u64) -> bool {
    e & STATE == TDB
}

/// A mapped non-leaf entry.
#[must_use]
pub const fn table_entry(hpa: u64) -> u64 {
    PERMS | hpa & HPA
}

/// The entry after BLOCK of its L1 entry.
#[must_use]
pub const fn blocked(e: u64, l1_blocked_w: bool) -> u64 {
    let mut n = e;
    if e & PS != 0 {
        if !l1_blocked_w {
            n = n & !TDWR | if e & W != 0 { TDWR } else { 0 };
        }
        n = n & !MT
            | if e & R != 0 { SAVED_R } else { 0 }
            | if e & X != 0 { SAVED_X } else { 0 }
            | if e & XU != 0 { SAVED_XU } else { 0 };
        n = n & !(STATE & !R) | IPAT | PS | TDB;
    } else {
        n = n & !STATE | TDB;
    }
    n & !PERMS
}

/// The entry after its L1 entry is unblocked; other entries stay.
#[must_use]
pub const fn unblocked(e: u64) -> u64 {
    if is_nl_blocked(e) {
        (e & !STATE | PERMS) & !MT & !TDWR
    } else if is_blocked(e) {
        let p = if e & SAVED_R != 0 { R } else { 0 }
            | if e & SAVED_X != 0 { X } else { 0 }
            | if e & SAVED_XU != 0 { XU } else { 0 }
            | if e & TDWR != 0 { W } else { 0 };
        e & !(STATE | PERMS | MT | TDWR) | IPAT | PS | p | MT_WB
    } else {
        e
    }
}

/// Attributes of a GPA for one VM, as TDG.MEM.PAGE.ATTR.WR takes them.
pub mod attr {
    /// Read, write, supervisor and user execute.
    pub const PRESENT: u16 = 0xF;
    /// The attributes are valid.
    pub const VALID: u16 = 1 << 15;

    /// At least one access is allowed.
    #[must_use]
    pub const fn present(a: u16) -> bool {
        a & PRESENT != 0
    }
    /// The combination is one the CPU can express.
    #[must_use]
    pub const fn legal(a: u16) -> bool {
        let (r, w, pwa, sve) = (a & 1 != 0, a & 2 != 0, a & 32 != 0, a & 128 != 0);
        !(a & VALID == 0 && a != 0 || a & 0x7F00 != 0 || w && !r || pwa && !r || sve)
    }
}

const fn attr_bits(a: u16) -> u64 {
    let a = a as u64;
    a & 7
        | (a >> 3 & 1) << 10
        | (a >> 4 & 1) << 57
        | (a >> 5 & 1) << 58
        | (a >> 6 & 1) << 60
        | (a >> 7 & 1) << 63
}

/// Saves the permissions of an entry in the places for a blocked leaf.
const fn save(e: u64) -> u64 {
    e & !(PERMS | MT | TDWR)
        | if e & R != 0 { SAVED_R } else { 0 }
        | if e & X != 0 { SAVED_X } else { 0 }
        | if e & XU != 0 { SAVED_XU } else { 0 }
        | if e & W != 0 { TDWR } else { 0 }
}

/// A new alias with attributes `a` of the page at `hpa`.
#[must_use]
pub const fn leaf_entry(old: u64, a: u16, hpa: u64, is_blocked: bool) -> u64 {
    let keep = old & !(PERMS | VGP | PWA | SSS | SVE | HPA | MT | TDWR | TDB);
    let e = keep | attr_bits(a) | hpa & HPA | IPAT | PS;
    if is_blocked {
        save(e) | TDB
    } else {
        e | MT_WB
    }
}

/// An existing alias with new attributes.
#[must_use]
pub const fn with_attr(e: u64, a: u16) -> u64 {
    let n = e & !(PERMS | VGP | PWA | SSS | SVE) | attr_bits(a);
    if is_blocked(n) {
        save(n)
    } else {
        n
    }
}

/// The attributes of an entry.
#[must_use]
pub const fn attrs(e: u64, l1_blocked_w: bool) -> u16 {
    if is_free(e) {
        return ((e >> 63) << 7) as u16;
    }
    if e & PS == 0 {
        return attr::VALID | attr::PRESENT;
    }
    let mut a = (e & 7
        | (e >> 10 & 1) << 3
        | (e >> 57 & 1) << 4
        | (e >> 58 & 1) << 5
        | (e >> 60 & 1) << 6
        | (e >> 63) << 7) as u16;
    if is_blocked(e) {
        a = a & !2 | if e & TDWR != 0 { 2 } else { 0 };
        if !l1_blocked_w {
            a = a & !0xD
                | if e & SAVED_R != 0 { 1 } else { 0 }
                | if e & SAVED_X != 0 { 4 } else { 0 }
                | if e & SAVED_XU != 0 { 8 } else { 0 };
        }
    }
    a | attr::VALID
}

/// The view of an L2 entry that error information gives: (RCX, RDX).
#[must_use]
pub fn arch_view(e: u64, vm: u16, debug: bool, level: u8) -> (u64, u64) {
    const LEAF: u64 = MT | HPA | IPAT | PS | SVE;
    let rcx = if is_free(e) {
        SVE
    } else if e & PS != 0 {
        if debug {
            e & (LEAF | PERMS | VGP | PWA | SSS)
        } else if is_mapped(e) {
            e & LEAF | PERMS
        } else {
            e & LEAF
        }
    } else {
        e & (PERMS | PS)
    };
    let code = e >> 55 & 1 | (e >> 6 & 3) << 1 | (e & 1) << 3;
    let public = match code {
        0 => 64,
        8 => 196,
        1 => 193,
        6 => 68,
        7 => 65,
        _ => 0,
    };
    (rcx, u64::from(level) | public << 8 | u64::from(vm) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_keeps_permissions() {
        for a in 0..16u16 {
            let a = a | attr::VALID;
            if !attr::legal(a) || !attr::present(a) {
                continue;
            }
            let e = leaf_entry(0, a, 0x5000, false);
            assert_eq!(attrs(e, false), a);
            let b = blocked(e, false);
            assert!(is_blocked(b));
            assert_eq!(b & PERMS, 0);
            assert_eq!(attrs(b, false), a);
            assert_eq!(unblocked(b), e);
            assert_eq!(leaf_entry(0, a, 0x5000, true), b);
        }
    }

    #[test]
    fn second_block_loses_them() {
        let e = leaf_entry(0, attr::VALID | 7, 0x5000, true);
        assert_eq!(attrs(blocked(e, false), false), attr::VALID);
    }

    #[test]
    fn tables() {
        let t = table_entry(0x7000);
        assert!(!is_free(t));
        assert_eq!(unblocked(blocked(t, false)), t);
    }
}
