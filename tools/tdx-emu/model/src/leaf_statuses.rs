// SPDX-License-Identifier: GPL-2.0
//! Which statuses the leaves that move a page can return.
//!
//! For tests of their callers: each status of a leaf is to be injected once (see
//! [`crate::fault`]). Order of the checks in the Intel TDX module 1.5 ABI
//! specification; the last ones of some leaves are those of newer modules, which
//! this model does not return by itself.

use crate::regs::leaf;
use crate::regs::op::{OP_STATE, R8, RAX, RCX, RDX, SEPT_TREE, TD_EPOCH};
use crate::status::{
    self, class, with_op, EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, GPA_RANGE_ALREADY_BLOCKED,
    GPA_RANGE_NOT_BLOCKED, OPERAND_ADDR_RANGE_ERROR, OPERAND_BUSY, OPERAND_INVALID,
    OP_STATE_INCORRECT, PAGE_METADATA_INCORRECT, PREVIOUS_TLB_EPOCH_BUSY, SYS_NOT_READY,
    SYS_SHUTDOWN, TDCS_NOT_ALLOCATED, TD_FATAL, TD_KEYS_NOT_CONFIGURED, TLB_TRACKING_NOT_DONE,
};

/// With dynamic PAMT: the target's 2 MiB have no PAMT page pair.
pub const MISSING_PAMT_PAGE_PAIR: u64 = 0x8000_0308 << 32;
/// With TDX Connect: a trusted device may still use a translation.
pub const IOMMU_IOTLB_TRACKING_NOT_DONE: u64 = 0xC000_0F03 << 32;

/// What the dispatcher can say of any call.
const DISPATCHER: [u64; 3] = [with_op(OPERAND_INVALID, RAX), SYS_SHUTDOWN, SYS_NOT_READY];

/// What can be wrong with a TD that is named by a register.
const fn td(operand: u32) -> [u64; 9] {
    [
        with_op(OPERAND_INVALID, operand),
        with_op(OPERAND_ADDR_RANGE_ERROR, operand),
        with_op(OPERAND_BUSY, operand),
        with_op(PAGE_METADATA_INCORRECT, operand),
        TD_FATAL,
        TD_KEYS_NOT_CONFIGURED,
        TDCS_NOT_ALLOCATED,
        with_op(OPERAND_BUSY, OP_STATE),
        OP_STATE_INCORRECT,
    ]
}

/// What can be wrong with an entry of the secure EPT.
const ENTRY: [u64; 5] = [
    with_op(OPERAND_INVALID, RCX),
    with_op(OPERAND_BUSY, SEPT_TREE),
    with_op(EPT_WALK_FAILED, RCX),
    with_op(OPERAND_BUSY, RCX),
    with_op(EPT_ENTRY_STATE_INCORRECT, RCX),
];

/// Joins lists, which together have `N` entries.
const fn join<const N: usize>(parts: &[&[u64]]) -> [u64; N] {
    let mut all = [0; N];
    let (mut n, mut i) = (0, 0);
    while i < parts.len() {
        let mut j = 0;
        while j < parts[i].len() {
            all[n] = parts[i][j];
            n += 1;
            j += 1;
        }
        i += 1;
    }
    assert!(n == N, "the list has another length");
    all
}

const BLOCK: [u64; 18] = join(&[
    &DISPATCHER,
    &td(RDX),
    &ENTRY,
    &[with_op(GPA_RANGE_ALREADY_BLOCKED, RCX)],
]);

const TRACK: [u64; 14] = join(&[
    &DISPATCHER,
    &td(RCX),
    &[with_op(OPERAND_BUSY, TD_EPOCH), PREVIOUS_TLB_EPOCH_BUSY],
]);

const RELOCATE: [u64; 25] = join(&[
    &DISPATCHER,
    &td(RDX),
    &ENTRY,
    &[
        with_op(OPERAND_INVALID, R8),
        with_op(GPA_RANGE_NOT_BLOCKED, RCX),
        with_op(TLB_TRACKING_NOT_DONE, RCX),
        with_op(OPERAND_ADDR_RANGE_ERROR, R8),
        with_op(OPERAND_BUSY, R8),
        with_op(PAGE_METADATA_INCORRECT, R8),
        with_op(MISSING_PAMT_PAGE_PAIR, R8),
        with_op(IOMMU_IOTLB_TRACKING_NOT_DONE, RCX),
    ],
]);

const UNBLOCK: [u64; 19] = join(&[
    &DISPATCHER,
    &td(RDX),
    &ENTRY,
    &[
        with_op(TLB_TRACKING_NOT_DONE, RCX),
        with_op(IOMMU_IOTLB_TRACKING_NOT_DONE, RCX),
    ],
]);

const WBINVD: [u64; 7] = join(&[
    &DISPATCHER,
    &[
        with_op(OPERAND_INVALID, RCX),
        with_op(OPERAND_ADDR_RANGE_ERROR, RCX),
        with_op(OPERAND_BUSY, RCX),
        with_op(PAGE_METADATA_INCORRECT, RCX),
    ],
]);

/// Each leaf with the statuses besides success that it can return.
pub const TABLE: &[(u16, &[u64])] = &[
    (leaf::MEM_RANGE_BLOCK, &BLOCK),
    (leaf::MEM_TRACK, &TRACK),
    (leaf::MEM_PAGE_RELOCATE, &RELOCATE),
    (leaf::MEM_RANGE_UNBLOCK, &UNBLOCK),
    (leaf::PHYMEM_PAGE_WBINVD, &WBINVD),
];

/// The statuses of a leaf of [`TABLE`].
#[must_use]
pub fn of(leaf: u16) -> Option<&'static [u64]> {
    TABLE.iter().find(|(l, _)| *l == leaf).map(|(_, s)| *s)
}

/// The name of a status of [`TABLE`] without its details.
#[must_use]
pub fn name(status: u64) -> Option<&'static str> {
    match class(status) {
        MISSING_PAMT_PAGE_PAIR => Some("MISSING_PAMT_PAGE_PAIR"),
        IOMMU_IOTLB_TRACKING_NOT_DONE => Some("IOMMU_IOTLB_TRACKING_NOT_DONE"),
        other => status::name(other),
    }
}

/// The name of the operand of a status of [`TABLE`], if it has one.
#[must_use]
pub fn operand(status: u64) -> Option<&'static str> {
    match (class(status), status as u32) {
        (OPERAND_INVALID, RAX) => Some("RAX"),
        (_, RCX) => Some("RCX"),
        (_, RDX) => Some("RDX"),
        (_, R8) => Some("R8"),
        (_, SEPT_TREE) => Some("SEPT_TREE"),
        (_, TD_EPOCH) => Some("TD_EPOCH"),
        (_, OP_STATE) => Some("OP_STATE"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_name_and_is_there_once() {
        for (leaf, statuses) in TABLE {
            assert_eq!(of(*leaf), Some(*statuses));
            for (i, s) in statuses.iter().enumerate() {
                assert!(name(*s).is_some(), "{s:#x}");
                assert!(!statuses[..i].contains(s), "{leaf}: {s:#x} twice");
                assert_ne!(*s, status::SUCCESS);
                assert_eq!(operand(*s).is_some(), operand_needed(*s), "{s:#x}");
            }
        }
    }

    fn operand_needed(status: u64) -> bool {
        status as u32 != 0 || class(status) == OPERAND_INVALID
    }
}
