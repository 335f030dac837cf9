// SPDX-License-Identifier: GPL-2.0
//! Completion statuses.
//!
//! The upper half names the condition, the lower half the operand (or other
//! details). Values: Intel TDX module 1.5 ABI specification, function
//! completion status codes.

/// The result of a step of a leaf: the error is the value RAX will have.
pub type Res<T = ()> = Result<T, u64>;

macro_rules! codes {
    ($($name:ident = $val:literal;)*) => {
        $(#[allow(missing_docs)] pub const $name: u64 = $val << 32;)*
        /// The name of a status without its details.
        #[must_use]
        pub fn name(status: u64) -> Option<&'static str> {
            match status >> 32 {
                $($val => Some(stringify!($name)),)*
                _ => None,
            }
        }
        /// All statuses the model knows.
        pub const ALL: &[u64] = &[$($val << 32),*];
    };
}

codes! {
    SUCCESS = 0x0000_0000;
    NON_RECOVERABLE_VCPU = 0x4000_0001;
    INTERRUPTED_RESUMABLE = 0x8000_0003;
    INTERRUPTED_RESTARTABLE = 0x8000_0004;
    NON_RECOVERABLE_TD_NON_ACCESSIBLE = 0x6000_0005;
    OPERAND_INVALID = 0xC000_0100;
    OPERAND_ADDR_RANGE_ERROR = 0xC000_0101;
    OPERAND_BUSY = 0x8000_0200;
    PREVIOUS_TLB_EPOCH_BUSY = 0x8000_0201;
    SYS_BUSY = 0x8000_0202;
    RND_NO_ENTROPY = 0x8000_0203;
    OPERAND_BUSY_HOST_PRIORITY = 0x8000_0204;
    HOST_PRIORITY_BUSY_TIMEOUT = 0x9000_0205;
    PAGE_METADATA_INCORRECT = 0xC000_0300;
    TD_ASSOCIATED_PAGES_EXIST = 0xC000_0400;
    SYS_INIT_NOT_PENDING = 0xC000_0500;
    SYS_LP_INIT_NOT_DONE = 0xC000_0502;
    SYS_LP_INIT_DONE = 0xC000_0503;
    SYS_NOT_READY = 0xC000_0505;
    SYS_SHUTDOWN = 0xC000_0506;
    SYS_KEY_CONFIG_NOT_PENDING = 0xC000_0507;
    SYS_LP_INIT_NOT_PENDING = 0xC000_050B;
    SYS_CONFIG_NOT_PENDING = 0xC000_050C;
    TD_FATAL = 0xE000_0604;
    TD_NON_DEBUG = 0xC000_0605;
    TDCS_NOT_ALLOCATED = 0xC000_0606;
    LIFECYCLE_STATE_INCORRECT = 0xC000_0607;
    OP_STATE_INCORRECT = 0xC000_0608;
    NO_VCPUS = 0xC000_0609;
    TDCX_NUM_INCORRECT = 0xC000_0610;
    X2APIC_ID_NOT_UNIQUE = 0xC000_0621;
    VCPU_STATE_INCORRECT = 0xC000_0700;
    VCPU_ASSOCIATED = 0x8000_0701;
    VCPU_NOT_ASSOCIATED = 0x8000_0702;
    NO_VALID_VE_INFO = 0xC000_0704;
    MAX_VCPUS_EXCEEDED = 0xC000_0705;
    TSC_ROLLBACK = 0xC000_0706;
    KEY_GENERATION_FAILED = 0x8000_0800;
    TD_KEYS_NOT_CONFIGURED = 0x8000_0810;
    KEY_STATE_INCORRECT = 0xC000_0811;
    KEY_CONFIGURED = 0x0000_0815;
    WBCACHE_NOT_COMPLETE = 0x8000_0817;
    HKID_NOT_FREE = 0xC000_0820;
    NO_HKID_READY_TO_WBCACHE = 0x0000_0821;
    WBCACHE_RESUME_ERROR = 0xC000_0823;
    FLUSHVP_NOT_DONE = 0x8000_0824;
    INCORRECT_MSR_VALUE = 0xC000_0921;
    INVALID_TDMR = 0xC000_0A00;
    NON_ORDERED_TDMR = 0xC000_0A01;
    TDMR_OUTSIDE_CMRS = 0xC000_0A02;
    TDMR_ALREADY_INITIALIZED = 0x0000_0A03;
    INVALID_PAMT = 0xC000_0A10;
    PAMT_OUTSIDE_CMRS = 0xC000_0A11;
    PAMT_OVERLAP = 0xC000_0A12;
    INVALID_RESERVED_IN_TDMR = 0xC000_0A20;
    NON_ORDERED_RESERVED_IN_TDMR = 0xC000_0A21;
    EPT_WALK_FAILED = 0xC000_0B00;
    EPT_ENTRY_NOT_PRESENT = 0xC000_0B03;
    GPA_RANGE_NOT_BLOCKED = 0xC000_0B06;
    GPA_RANGE_ALREADY_BLOCKED = 0x0000_0B07;
    TLB_TRACKING_NOT_DONE = 0xC000_0B08;
    EPT_INVALID_PROMOTE_CONDITIONS = 0xC000_0B09;
    PAGE_ALREADY_ACCEPTED = 0x0000_0B0A;
    PAGE_SIZE_MISMATCH = 0xC000_0B0B;
    EPT_ENTRY_STATE_INCORRECT = 0xC000_0B0D;
    EPT_PAGE_NOT_FREE = 0xC000_0B0E;
    L2_SEPT_WALK_FAILED = 0xC000_0B0F;
    L2_SEPT_ENTRY_NOT_FREE = 0xC000_0B10;
    PAGE_ATTR_INVALID = 0xC000_0B11;
    L2_SEPT_PAGE_NOT_PROVIDED = 0xC000_0B12;
    METADATA_FIELD_ID_INCORRECT = 0xC000_0C00;
    METADATA_FIELD_NOT_WRITABLE = 0xC000_0C01;
    METADATA_FIELD_NOT_READABLE = 0xC000_0C02;
    METADATA_FIELD_VALUE_NOT_VALID = 0xC000_0C03;
    METADATA_FIRST_FIELD_ID_IN_CONTEXT = 0x0000_0C0B;
}

/// Not a status of the module: the model met an inconsistency at which the
/// real module executes UD2, or memory whose integrity is gone. The call ends
/// as [`crate::Outcome::VmFailInvalid`], as do all later ones.
pub const INTERNAL_FATAL: u64 = 0x8000_FFFE_0000_0000;

/// Adds an operand id to a status.
#[must_use]
pub const fn with_op(status: u64, operand: u32) -> u64 {
    status | operand as u64
}

/// Adds the (VM, level) details of the L2 S-EPT statuses.
#[must_use]
pub const fn with_l2(status: u64, vm: u16, level: u8) -> u64 {
    status | (vm as u64) << 16 | level as u64
}

/// The status without its details.
#[must_use]
pub const fn class(status: u64) -> u64 {
    status & 0xFFFF_FFFF_0000_0000
}

/// An exit of the TD to the host, which is not an error.
pub const EXIT_REASON_INTERRUPT: u64 = 1;
/// The basic exit reason of a triple fault.
pub const EXIT_REASON_TRIPLE_FAULT: u64 = 2;
/// The basic exit reason of an EPT violation.
pub const EXIT_REASON_EPT_VIOLATION: u64 = 48;
/// The basic exit reason of TDCALL.
pub const EXIT_REASON_TDCALL: u64 = 77;
