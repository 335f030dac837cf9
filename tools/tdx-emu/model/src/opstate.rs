// SPDX-License-Identifier: GPL-2.0
//! Life cycle and operation states of a TD, and which leaf is allowed where
//! (`op_state_lookup.c` of the published source).

use crate::regs::leaf;

/// Life cycle states (TDR).
#[allow(missing_docs)]
pub mod lifecycle {
    pub const HKID_ASSIGNED: u64 = 0;
    pub const KEYS_CONFIGURED: u64 = 1;
    pub const BLOCKED: u64 = 2;
    pub const TEARDOWN: u64 = 3;
}

/// Operation states (TDCS).
#[allow(missing_docs)]
pub mod op_state {
    pub const UNINITIALIZED: u64 = 0;
    pub const INITIALIZED: u64 = 1;
    pub const RUNNABLE: u64 = 2;
    pub const LIVE_EXPORT: u64 = 3;
    pub const PAUSED_EXPORT: u64 = 4;
    pub const POST_EXPORT: u64 = 5;
    pub const MEMORY_IMPORT: u64 = 6;
    pub const STATE_IMPORT: u64 = 7;
    pub const POST_IMPORT: u64 = 8;
    pub const LIVE_IMPORT: u64 = 9;
    pub const FAILED_IMPORT: u64 = 10;
}

const fn set(states: &[u64]) -> u16 {
    let mut mask = 0;
    let mut i = 0;
    while i < states.len() {
        mask |= 1 << states[i];
        i += 1;
    }
    mask
}

/// The operation states in which a host leaf is allowed, as a bit mask.
#[must_use]
pub const fn allowed_in(leaf_no: u16) -> u16 {
    match leaf_no {
        leaf::VP_ENTER => set(&[2, 3, 9]),
        leaf::MNG_ADDCX | leaf::MNG_INIT => set(&[0]),
        leaf::MEM_PAGE_ADD | leaf::MR_EXTEND | leaf::MR_FINALIZE | leaf::VP_INIT => set(&[1]),
        leaf::MEM_SEPT_ADD => set(&[1, 2, 3, 6, 7, 8, 9]),
        leaf::VP_CREATE | leaf::VP_ADDCX => set(&[1, 7]),
        leaf::MEM_PAGE_RELOCATE
        | leaf::MEM_RANGE_BLOCK
        | leaf::MEM_RANGE_UNBLOCK
        | leaf::MEM_PAGE_DEMOTE
        | leaf::MEM_PAGE_PROMOTE => set(&[1, 2, 3, 4, 5, 8, 9]),
        leaf::MEM_PAGE_AUG => set(&[1, 2, 3, 9]),
        leaf::MEM_PAGE_REMOVE => set(&[1, 2, 3, 4, 5, 8, 9, 10]),
        leaf::MNG_RD | leaf::MEM_RD | leaf::MEM_SEPT_RD | leaf::VP_RD | leaf::MEM_SEPT_REMOVE => {
            set(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
        }
        leaf::MEM_WR | leaf::VP_WR => set(&[1, 2, 3, 6, 7, 8, 9, 10]),
        leaf::MEM_TRACK => set(&[1, 2, 3, 4, 5, 6, 7, 8, 9]),
        leaf::VP_FLUSH => set(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        _ => 0,
    }
}

/// Whether a host leaf is allowed in an operation state.
#[must_use]
pub const fn allowed(leaf_no: u16, state: u64) -> bool {
    state < 16 && allowed_in(leaf_no) >> state & 1 == 1
}

/// Whether stale translations are possible in this state, so that blocking and
/// tracking are demanded.
#[must_use]
pub const fn needs_tracking(state: u64) -> bool {
    matches!(
        state,
        op_state::RUNNABLE | op_state::LIVE_EXPORT | op_state::LIVE_IMPORT
    )
}

/// Whether an import session is under way (removed pages leave a mark then).
#[must_use]
pub const fn import_in_progress(state: u64) -> bool {
    matches!(
        state,
        op_state::MEMORY_IMPORT
            | op_state::STATE_IMPORT
            | op_state::POST_IMPORT
            | op_state::LIVE_IMPORT
    )
}
