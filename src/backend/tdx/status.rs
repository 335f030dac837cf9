// SPDX-License-Identifier: GPL-2.0

//! Completion status of SEAMCALL leaves, decoded once.
//!
//! Layout and values: Intel TDX Module 1.5 ABI Specification, "Function Completion Status";
//! `tdx_error_codes_defs.h` of the published TDX module 1.5.05 source. The lower half names the
//! operand at fault and is not looked at, except where [`Answer`] says so. Bit 62
//! ("non-recoverable") is also set in statuses that a host can cure, so it decides nothing.
//!
//! Free of kernel code: the host's tests compile this file too.

/// What came back from one SEAMCALL.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    /// RAX.
    pub(crate) status: u64,
    /// RCX: an output, or the S-EPT entry if the status is about one.
    pub(crate) rcx: u64,
    /// RDX: level and state of that S-EPT entry.
    pub(crate) rdx: u64,
}

/// What the status of a call means to whoever made it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is done.
    Done,
    /// RANGE.BLOCK: somebody else has done it. TLB tracking starts from then, not from now.
    AlreadyBlocked,
    /// Somebody holds a lock, or a vCPU is in the guest where none may be. Try again, without
    /// vCPUs in the guest if need be.
    Contended,
    /// RANGE.BLOCK has to come first.
    NotBlocked,
    /// MEM.TRACK has to come first, or vCPUs have to leave the guest after it.
    NotTracked,
    /// The module will not do it. Nothing has changed.
    Refused,
    /// The TD, or the whole TDX module, is of no more use.
    Lost,
}

mod code {
    //! Upper halves of RAX.

    pub(super) const SUCCESS: u32 = 0;
    pub(super) const INTERRUPTED_RESUMABLE: u32 = 0x8000_0003;
    pub(super) const INTERRUPTED_RESTARTABLE: u32 = 0x8000_0004;
    pub(super) const OPERAND_BUSY: u32 = 0x8000_0200;
    pub(super) const PREVIOUS_TLB_EPOCH_BUSY: u32 = 0x8000_0201;
    pub(super) const SYS_BUSY: u32 = 0x8000_0202;
    pub(super) const RND_NO_ENTROPY: u32 = 0x8000_0203;
    pub(super) const OPERAND_BUSY_HOST_PRIORITY: u32 = 0x8000_0204;
    pub(super) const SYS_NOT_READY: u32 = 0xc000_0505;
    pub(super) const SYS_SHUTDOWN: u32 = 0xc000_0506;
    pub(super) const TD_FATAL: u32 = 0xe000_0604;
    pub(super) const TD_KEYS_NOT_CONFIGURED: u32 = 0x8000_0810;
    pub(super) const GPA_RANGE_NOT_BLOCKED: u32 = 0xc000_0b06;
    pub(super) const GPA_RANGE_ALREADY_BLOCKED: u32 = 0x0000_0b07;
    pub(super) const TLB_TRACKING_NOT_DONE: u32 = 0xc000_0b08;
    pub(super) const EPT_ENTRY_STATE_INCORRECT: u32 = 0xc000_0b0d;
    /// TDX module 2.0: the same for the IOMMU's TLB.
    pub(super) const IOTLB_TRACKING_NOT_DONE: u32 = 0xc000_0f03;
    /// Class of statuses that no TDX module returns, but the host's own SEAMCALL code: the
    /// instruction has faulted, or there is no module to call.
    pub(super) const CLASS_SOFTWARE: u32 = 0xff;
}

/// Bits of an S-EPT entry, or of an address operand, that hold the host physical address. Newer
/// modules set hints above it.
const HPA: u64 = 0x000f_ffff_ffff_f000;

impl Answer {
    /// Decodes the status.
    #[inline]
    pub(crate) fn verdict(self) -> Verdict {
        let high = (self.status >> 32) as u32;
        if high == code::SUCCESS {
            Verdict::Done
        } else {
            Self::why_not(high)
        }
    }

    fn why_not(high: u32) -> Verdict {
        match high {
            code::GPA_RANGE_ALREADY_BLOCKED => Verdict::AlreadyBlocked,
            code::OPERAND_BUSY
            | code::OPERAND_BUSY_HOST_PRIORITY
            | code::PREVIOUS_TLB_EPOCH_BUSY
            | code::SYS_BUSY
            | code::RND_NO_ENTROPY
            | code::INTERRUPTED_RESUMABLE
            | code::INTERRUPTED_RESTARTABLE => Verdict::Contended,
            code::GPA_RANGE_NOT_BLOCKED => Verdict::NotBlocked,
            code::TLB_TRACKING_NOT_DONE | code::IOTLB_TRACKING_NOT_DONE => Verdict::NotTracked,
            code::TD_FATAL
            | code::TD_KEYS_NOT_CONFIGURED
            | code::SYS_NOT_READY
            | code::SYS_SHUTDOWN => Verdict::Lost,
            _ if high >> 8 & 0xff == code::CLASS_SOFTWARE => Verdict::Lost,
            _ => Verdict::Refused,
        }
    }

    /// Host physical address of a page: where it was (PAGE.RELOCATE, done), or where it is according
    /// to the S-EPT entry that the status is about.
    pub(crate) fn page(self) -> u64 {
        self.rcx & HPA
    }

    /// RANGE.UNBLOCK, refused: the entry is not blocked at all.
    ///
    /// RDX bits 15:8 are the public state of the entry: 4 is mapped, 2 is pending.
    pub(crate) fn entry_in_use(self) -> bool {
        (self.status >> 32) as u32 == code::EPT_ENTRY_STATE_INCORRECT
            && matches!(self.rdx >> 8 & 0xff, 2 | 4)
    }
}
