// SPDX-License-Identifier: GPL-2.0
//! Secure EPT entries: bits, states, and what may be done in which state.
//!
//! Sources: `sept_manager.h` and `sept_state_lookup.c` of the published Intel
//! TDX module 1.5, and the EPT entry layout in the SDM.

use crate::regs::{leaf, tdcall};

/// Read permission.
pub const R: u64 = 1 << 0;
/// Write permission.
pub const W: u64 = 1 << 1;
/// Execute permission.
pub const X: u64 = 1 << 2;
/// All three.
pub const RWX: u64 = R | W | X;
/// Memory type, bits 5:3.
pub const MT: u64 = 7 << 3;
/// Memory type write-back.
pub const MT_WB: u64 = 6 << 3;
/// Ignore PAT; part of the state code.
pub const IPAT: u64 = 1 << 6;
/// Leaf; part of the state code.
pub const PS: u64 = 1 << 7;
/// Dirty; part of the state code.
pub const D: u64 = 1 << 9;
/// User execute (L2 entries).
pub const XU: u64 = 1 << 10;
/// Entry lock.
pub const TDEL: u64 = 1 << 11;
/// Host physical address.
pub const HPA: u64 = 0x000F_FFFF_FFFF_F000;
/// Host priority flag of the entry lock.
pub const TDHP: u64 = 1 << 52;
/// Suppress #VE.
pub const SVE: u64 = 1 << 63;
/// Progress of ACCEPT in a 2 MiB PENDING entry: 4 KiB chunks done.
pub const ACCEPT: u64 = 0x1F_F000;

const STATE: u64 = D | 0xF << 53 | IPAT | PS;
const ARCH_LEAF: u64 = RWX | MT | IPAT | PS | HPA | SVE;
const ARCH_NON_LEAF: u64 = RWX | PS;

/// States of an L1 entry; the discriminant is the index of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum State {
    Free = 0,
    Removed = 1,
    NlMapped = 2,
    NlBlocked = 3,
    Mapped = 4,
    Blocked = 5,
    BlockedW = 6,
    ExportedBlockedW = 7,
    ExportedDirty = 8,
    ExportedDirtyBlockedW = 9,
    Pending = 10,
    PendingBlocked = 11,
    PendingBlockedW = 12,
    PendingExportedBlockedW = 13,
    PendingExportedDirty = 14,
    PendingExportedDirtyBlockedW = 15,
}

use State::*;

/// All states with their code and public number, in the order of the tables.
pub const STATES: [(State, u8, u8); 16] = [
    (Free, 0x0E, 0),
    (Removed, 0x0C, 5),
    (NlMapped, 0x00, 132),
    (NlBlocked, 0x08, 129),
    (Mapped, 0x60, 4),
    (Blocked, 0x68, 1),
    (BlockedW, 0x64, 8),
    (ExportedBlockedW, 0x66, 9),
    (ExportedDirty, 0x63, 11),
    (ExportedDirtyBlockedW, 0x67, 12),
    (Pending, 0x70, 2),
    (PendingBlocked, 0x78, 3),
    (PendingBlockedW, 0x74, 16),
    (PendingExportedBlockedW, 0x76, 17),
    (PendingExportedDirty, 0x73, 19),
    (PendingExportedDirtyBlockedW, 0x77, 20),
];

const fn code_to_mask(code: u8) -> u64 {
    let c = code as u64;
    (c & 1) << 9 | (c >> 1 & 0xF) << 53 | (c >> 5 & 3) << 6
}

impl State {
    /// The state bits of an entry in this state.
    #[must_use]
    pub const fn bits(self) -> u64 {
        code_to_mask(STATES[self as usize].1)
    }
    /// The number software outside the module sees.
    #[must_use]
    pub const fn public(self) -> u64 {
        STATES[self as usize].2 as u64
    }
    /// Whether a page in this state may have stale translations.
    #[must_use]
    pub const fn needs_tracking(self) -> bool {
        !matches!(
            self,
            Free | Removed | ExportedBlockedW | PendingExportedBlockedW
        )
    }
    /// One of the three blocked states.
    #[must_use]
    pub const fn any_blocked(self) -> bool {
        matches!(self, NlBlocked | Blocked | PendingBlocked)
    }
    /// Blocked for writing.
    #[must_use]
    pub const fn any_blocked_w(self) -> bool {
        matches!(
            self,
            BlockedW
                | ExportedBlockedW
                | ExportedDirtyBlockedW
                | PendingBlockedW
                | PendingExportedBlockedW
                | PendingExportedDirtyBlockedW
        )
    }
    /// One of the pending states: the page has no content yet.
    #[must_use]
    pub const fn any_pending(self) -> bool {
        self as u8 >= Pending as u8
    }
    /// Pending, and the guest may accept it.
    #[must_use]
    pub const fn acceptable(self) -> bool {
        matches!(self, Pending | PendingExportedDirty)
    }
    /// A leaf the guest can at least read.
    #[must_use]
    pub const fn guest_accessible(self) -> bool {
        matches!(
            self,
            Mapped | BlockedW | ExportedBlockedW | ExportedDirty | ExportedDirtyBlockedW
        )
    }
}

/// The state of an entry; `None` for a code that no state has.
#[must_use]
pub fn try_state(entry: u64) -> Option<State> {
    STATES
        .iter()
        .find(|s| code_to_mask(s.1) == entry & STATE)
        .map(|s| s.0)
}

/// The state of an entry. Codes without a state are treated as FREE in the
/// permission tables, which have no row for them.
#[must_use]
pub fn state(entry: u64) -> State {
    try_state(entry).unwrap_or(Free)
}

/// Whether the entry is a leaf.
#[must_use]
pub const fn is_leaf(entry: u64) -> bool {
    entry & PS != 0
}

/// The states in which a host leaf accepts an entry, as a bit mask.
#[must_use]
pub const fn allowed_in(leaf_no: u16) -> u16 {
    match leaf_no {
        leaf::MEM_PAGE_ADD => 1 << 0,
        leaf::MEM_SEPT_ADD => 1 << 0 | 1 << 2,
        leaf::MEM_PAGE_RELOCATE => 0xFFF0,
        leaf::MEM_PAGE_AUG => 1 << 0 | 1 << 1,
        leaf::MEM_RANGE_BLOCK => 1 << 2 | 1 << 4 | 1 << 6 | 1 << 10 | 1 << 12,
        leaf::MEM_RD => 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9,
        leaf::MEM_WR => 1 << 4 | 1 << 8,
        leaf::MEM_PAGE_DEMOTE => 1 << 4 | 1 << 5 | 1 << 10 | 1 << 11,
        leaf::MR_EXTEND => 1 << 4,
        leaf::MEM_PAGE_PROMOTE | leaf::MEM_SEPT_REMOVE => 1 << 2 | 1 << 3,
        leaf::MEM_SEPT_RD => 0xFFFF,
        leaf::MEM_PAGE_REMOVE => 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 11 | 1 << 12,
        leaf::MEM_RANGE_UNBLOCK => 1 << 3 | 1 << 5 | 1 << 11,
        _ => 0,
    }
}

/// Whether a host leaf accepts an entry in this state.
#[must_use]
pub const fn allowed(leaf_no: u16, state: State) -> bool {
    allowed_in(leaf_no) >> state as u16 & 1 == 1
}

/// Whether a guest leaf accepts an entry in this state.
#[must_use]
pub const fn guest_allowed(leaf_no: u16, state: State) -> bool {
    let mask: u16 = match leaf_no {
        tdcall::MEM_PAGE_ACCEPT => 1 << 10 | 1 << 14,
        tdcall::MEM_PAGE_ATTR_RD => {
            1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 0xF << 12
        }
        tdcall::MEM_PAGE_ATTR_WR => 1 << 4 | 1 << 8 | 1 << 10 | 1 << 14,
        _ => 0,
    };
    mask >> state as u16 & 1 == 1
}

/// Initial value of an entry of a fresh S-EPT page: FREE.
pub const INIT: u64 = Free.bits() | SVE;

/// A leaf entry.
#[must_use]
pub const fn leaf_entry(state: State, perms: u64, hpa: u64) -> u64 {
    perms | state.bits() | MT_WB | IPAT | hpa & HPA | SVE
}

/// A mapped non-leaf entry.
#[must_use]
pub const fn table_entry(hpa: u64) -> u64 {
    NlMapped.bits() | RWX | hpa & HPA | SVE
}

/// The entry a removed page leaves behind.
#[must_use]
pub const fn removed_entry(importing: bool) -> u64 {
    if importing {
        // Migration epoch 0, valid: the model has no migration context.
        Removed.bits() | SVE | 1 << 44
    } else {
        INIT
    }
}

/// The same entry in another state.
#[must_use]
pub const fn with_state(entry: u64, state: State) -> u64 {
    entry & !STATE | state.bits() | SVE
}

/// Clears the accept progress of a 2 MiB entry that the guest may accept.
#[must_use]
pub fn without_progress(entry: u64, level: u8) -> u64 {
    if level == 1 && state(entry).acceptable() {
        entry & !ACCEPT
    } else {
        entry
    }
}

/// The entry after BLOCK.
#[must_use]
pub fn blocked(entry: u64, level: u8) -> u64 {
    let e = without_progress(entry, level);
    match state(e) {
        NlMapped => with_state(e, NlBlocked) & !RWX,
        Mapped | BlockedW => with_state(e & !RWX, Blocked),
        Pending | PendingBlockedW => with_state(e, PendingBlocked),
        _ => e,
    }
}

/// The entry after it is unblocked; other entries stay as they are.
#[must_use]
pub fn unblocked(entry: u64) -> u64 {
    match state(entry) {
        NlBlocked => (with_state(entry, NlMapped) | RWX) & !MT,
        Blocked => (with_state(entry, Mapped) | RWX) & !MT | MT_WB,
        PendingBlocked => with_state(entry, Pending),
        _ => entry,
    }
}

/// Whether the L2 VM `vm` (1..=3) has an alias of the entry.
#[must_use]
pub const fn aliased(entry: u64, vm: u16) -> bool {
    entry >> (57 + vm) & 1 == 1
}

/// The alias bit of the L2 VM `vm`.
#[must_use]
pub const fn alias_bit(vm: u16) -> u64 {
    1 << (57 + vm)
}

/// Size of what an entry at `level` maps.
#[must_use]
pub const fn level_size(level: u8) -> u64 {
    4096 << (9 * level as u32)
}

/// Whether an address is aligned to what an entry at `level` maps.
#[must_use]
pub const fn aligned(addr: u64, level: u8) -> bool {
    addr & (level_size(level) - 1) == 0
}

/// Host physical address of `gpa` in the leaf `entry` at `level`.
#[must_use]
pub const fn leaf_hpa(entry: u64, gpa: u64, level: u8) -> u64 {
    let mask = level_size(level) - 1;
    entry & HPA & !mask | gpa & mask
}

/// The view of an entry that error information and SEPT.RD give: (RCX, RDX).
#[must_use]
pub fn arch_view(entry: u64, level: u8) -> (u64, u64) {
    let st = try_state(entry);
    let rcx = if st == Some(Free) {
        SVE
    } else if is_leaf(entry) {
        entry & ARCH_LEAF
    } else {
        entry & ARCH_NON_LEAF
    };
    (rcx, u64::from(level) | st.map_or(0, State::public) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_values() {
        let hpa = 0x4020_0000;
        for (entry, raw) in [
            (INIT, 0x80E0_0000_0000_0000),
            (removed_entry(true), 0x80C0_1000_0000_0000),
            (leaf_entry(Mapped, RWX, hpa), 0x8000_0000_0000_00F7 | hpa),
            (leaf_entry(Blocked, 0, hpa), 0x8080_0000_0000_00F0 | hpa),
            (leaf_entry(Pending, 0, hpa), 0x8100_0000_0000_00F0 | hpa),
            (
                leaf_entry(PendingBlocked, 0, hpa),
                0x8180_0000_0000_00F0 | hpa,
            ),
            (table_entry(hpa), 0x8000_0000_0000_0007 | hpa),
            (blocked(table_entry(hpa), 1), 0x8080_0000_0000_0000 | hpa),
        ] {
            assert_eq!(entry, raw, "{entry:#x} {raw:#x}");
        }
    }

    #[test]
    fn block_and_unblock() {
        for st in [NlMapped, Mapped, Pending] {
            let e = match st {
                NlMapped => table_entry(0x1000),
                Mapped => leaf_entry(Mapped, RWX, 0x1000),
                _ => leaf_entry(st, 0, 0x1000),
            };
            let b = blocked(e, 0);
            assert!(state(b).any_blocked());
            assert_eq!(unblocked(b), e);
        }
        // A page blocked for writing becomes writable again.
        let e = leaf_entry(BlockedW, R | X, 0x1000);
        assert_eq!(state(unblocked(blocked(e, 0))), Mapped);
    }

    #[test]
    fn states_are_distinct() {
        for (i, s) in STATES.iter().enumerate() {
            assert_eq!(s.0 as usize, i);
            assert_eq!(try_state(s.0.bits()), Some(s.0));
        }
        assert_eq!(try_state(IPAT), None);
    }

    #[test]
    fn progress_is_dropped_by_block() {
        let e = leaf_entry(Pending, 0, 0x4000_0000) | 5 << 12;
        assert_eq!(blocked(e, 1) & HPA, 0x4000_0000);
        assert_eq!(leaf_hpa(e, 0x7123, 1), 0x4000_7123);
    }
}
