// SPDX-License-Identifier: GPL-2.0
//! Registers of a call, leaf numbers and operand identifiers.
//!
//! Source of the numbers: the Intel TDX module 1.5 ABI specification and the
//! enumerations of the published Intel TDX module 1.5 source
//! (`tdx_api_defs.h`).

/// The general purpose registers that SEAMCALL and TDCALL leaves use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Regs {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl Regs {
    /// Registers of a call to `leaf` (version 0) with RCX and RDX.
    #[must_use]
    pub fn call(leaf: u16, rcx: u64, rdx: u64) -> Self {
        Regs {
            rax: leaf.into(),
            rcx,
            rdx,
            ..Regs::default()
        }
    }

    /// The same with R8.
    #[must_use]
    pub fn call3(leaf: u16, rcx: u64, rdx: u64, r8: u64) -> Self {
        Regs {
            r8,
            ..Regs::call(leaf, rcx, rdx)
        }
    }

    /// All registers, in the order of the fields.
    #[must_use]
    pub fn array(&self) -> [u64; 15] {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rbp, self.rsi, self.rdi, self.r8, self.r9,
            self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ]
    }

    /// The registers of an array in the order of the fields.
    #[must_use]
    pub fn from_array(a: [u64; 15]) -> Self {
        let [rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = a;
        Regs {
            rax,
            rcx,
            rdx,
            rbx,
            rbp,
            rsi,
            rdi,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
        }
    }

    /// R8 to R11 by index 0 to 3 (the page operands of VM 0 to 3).
    #[must_use]
    pub fn page_operand(&self, vm: usize) -> u64 {
        [self.r8, self.r9, self.r10, self.r11][vm & 3]
    }

    /// Sets R8 to R11 by index 0 to 3.
    pub fn set_page_operand(&mut self, vm: usize, value: u64) {
        match vm & 3 {
            0 => self.r8 = value,
            1 => self.r9 = value,
            2 => self.r10 = value,
            _ => self.r11 = value,
        }
    }
}

macro_rules! leaves {
    ($($name:ident = $num:literal, $text:literal;)*) => {
        /// Host-side (SEAMCALL) leaf numbers.
        #[allow(missing_docs)]
        pub mod leaf {
            $(pub const $name: u16 = $num;)*
            /// Every leaf the model answers.
            pub const ALL: &[u16] = &[$($num),*];
        }
        /// The name of a host-side leaf, as the published interface spells it.
        #[must_use]
        pub fn leaf_name(leaf: u16) -> Option<&'static str> {
            match leaf {
                $($num => Some($text),)*
                _ => None,
            }
        }
    };
}

leaves! {
    VP_ENTER = 0, "TDH.VP.ENTER";
    MNG_ADDCX = 1, "TDH.MNG.ADDCX";
    MEM_PAGE_ADD = 2, "TDH.MEM.PAGE.ADD";
    MEM_SEPT_ADD = 3, "TDH.MEM.SEPT.ADD";
    VP_ADDCX = 4, "TDH.VP.ADDCX";
    MEM_PAGE_RELOCATE = 5, "TDH.MEM.PAGE.RELOCATE";
    MEM_PAGE_AUG = 6, "TDH.MEM.PAGE.AUG";
    MEM_RANGE_BLOCK = 7, "TDH.MEM.RANGE.BLOCK";
    MNG_KEY_CONFIG = 8, "TDH.MNG.KEY.CONFIG";
    MNG_CREATE = 9, "TDH.MNG.CREATE";
    VP_CREATE = 10, "TDH.VP.CREATE";
    MNG_RD = 11, "TDH.MNG.RD";
    MEM_RD = 12, "TDH.MEM.RD";
    MEM_WR = 14, "TDH.MEM.WR";
    MEM_PAGE_DEMOTE = 15, "TDH.MEM.PAGE.DEMOTE";
    MR_EXTEND = 16, "TDH.MR.EXTEND";
    MR_FINALIZE = 17, "TDH.MR.FINALIZE";
    VP_FLUSH = 18, "TDH.VP.FLUSH";
    MNG_VPFLUSHDONE = 19, "TDH.MNG.VPFLUSHDONE";
    MNG_KEY_FREEID = 20, "TDH.MNG.KEY.FREEID";
    MNG_INIT = 21, "TDH.MNG.INIT";
    VP_INIT = 22, "TDH.VP.INIT";
    MEM_PAGE_PROMOTE = 23, "TDH.MEM.PAGE.PROMOTE";
    PHYMEM_PAGE_RDMD = 24, "TDH.PHYMEM.PAGE.RDMD";
    MEM_SEPT_RD = 25, "TDH.MEM.SEPT.RD";
    VP_RD = 26, "TDH.VP.RD";
    MNG_KEY_RECLAIMID = 27, "TDH.MNG.KEY.RECLAIMID";
    PHYMEM_PAGE_RECLAIM = 28, "TDH.PHYMEM.PAGE.RECLAIM";
    MEM_PAGE_REMOVE = 29, "TDH.MEM.PAGE.REMOVE";
    MEM_SEPT_REMOVE = 30, "TDH.MEM.SEPT.REMOVE";
    SYS_KEY_CONFIG = 31, "TDH.SYS.KEY.CONFIG";
    SYS_INIT = 33, "TDH.SYS.INIT";
    SYS_RD = 34, "TDH.SYS.RD";
    SYS_LP_INIT = 35, "TDH.SYS.LP.INIT";
    SYS_TDMR_INIT = 36, "TDH.SYS.TDMR.INIT";
    MEM_TRACK = 38, "TDH.MEM.TRACK";
    MEM_RANGE_UNBLOCK = 39, "TDH.MEM.RANGE.UNBLOCK";
    PHYMEM_CACHE_WB = 40, "TDH.PHYMEM.CACHE.WB";
    PHYMEM_PAGE_WBINVD = 41, "TDH.PHYMEM.PAGE.WBINVD";
    VP_WR = 43, "TDH.VP.WR";
    SYS_LP_SHUTDOWN = 44, "TDH.SYS.LP.SHUTDOWN";
    SYS_CONFIG = 45, "TDH.SYS.CONFIG";
}

/// Leaves that the dispatcher lets through before the module is READY, also
/// those the model does not otherwise answer.
pub const BEFORE_READY: &[u16] = &[31, 32, 33, 34, 35, 37, 44, 45, 53];

/// Guest-side (TDCALL) leaf numbers.
#[allow(missing_docs)]
pub mod tdcall {
    pub const VP_VMCALL: u16 = 0;
    pub const VP_INFO: u16 = 1;
    pub const MR_RTMR_EXTEND: u16 = 2;
    pub const VP_VEINFO_GET: u16 = 3;
    pub const MR_REPORT: u16 = 4;
    pub const VP_CPUIDVE_SET: u16 = 5;
    pub const MEM_PAGE_ACCEPT: u16 = 6;
    pub const VM_RD: u16 = 7;
    pub const VM_WR: u16 = 8;
    pub const SYS_RD: u16 = 11;
    pub const MEM_PAGE_ATTR_RD: u16 = 23;
    pub const MEM_PAGE_ATTR_WR: u16 = 24;
}

/// Operand identifiers: the low half of many statuses.
#[allow(missing_docs)]
pub mod op {
    pub const RAX: u32 = 0;
    pub const RCX: u32 = 1;
    pub const RDX: u32 = 2;
    pub const R8: u32 = 8;
    pub const R9: u32 = 9;
    pub const ATTRIBUTES: u32 = 64;
    pub const XFAM: u32 = 65;
    pub const EXEC_CONTROLS: u32 = 66;
    pub const EPTP_CONTROLS: u32 = 67;
    pub const MAX_VCPUS: u32 = 68;
    pub const CPUID_CONFIG: u32 = 69;
    pub const TSC_FREQUENCY: u32 = 70;
    pub const NUM_L2_VMS: u32 = 71;
    pub const ARCH_CAPABILITIES: u32 = 72;
    pub const TDR: u32 = 128;
    pub const SEPT_TREE: u32 = 146;
    pub const RTMR: u32 = 168;
    pub const TD_EPOCH: u32 = 169;
    pub const OP_STATE: u32 = 172;
    pub const KOT: u32 = 186;
    pub const KET: u32 = 187;
    pub const WBCACHE: u32 = 188;
}
