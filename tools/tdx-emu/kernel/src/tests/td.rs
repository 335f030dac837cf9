// SPDX-License-Identifier: GPL-2.0

//! For tests: a TD with one vCPU.

use super::machine::{
    call,
    ok,
    Machine, //
};
use crate::emulator;
use kernel::prelude::*;
use tdx_emu_model::{
    mem::PAGE,
    program::VMCALL,
    regs::leaf,
    status::{
        EXIT_REASON_INTERRUPT,
        EXIT_REASON_TDCALL,
        INTERRUPTED_RESUMABLE, //
    },
    td::{
        MIN_TDCX,
        MIN_TDVPS, //
    },
    PhysMem,
    Regs, //
};

/// Entries after which a command is taken for stuck.
const MAX_ENTRIES: u32 = 10_000;
/// TD_PARAMS: a debuggable TD, XFAM, vCPUs, 4-level EPT, TSC frequency.
const PARAMS: [u64; 6] = [1, 3, 8, 0x1e, 0, 100];

/// A TD that is RUNNABLE, with `count` pending pages from GPA 0 on.
pub(super) struct Td {
    pub(super) tdr: u64,
    pub(super) hkid: u64,
    tdvpr: u64,
    count: u64,
    /// The pages.
    pub(super) pages: u64,
    /// As many free ones.
    pub(super) spare: u64,
    /// All pages of the TD but these: from the TDR's on.
    control: u64,
}

impl Td {
    pub(super) fn build(machine: &Machine, count: u64) -> Result<Self> {
        let hkid = machine.global_hkid + 1;
        let tdr = machine.pool.pa;
        let mut next = tdr;
        let mut page = || {
            next += PAGE;
            next
        };
        ok(Regs::call(leaf::MNG_CREATE, tdr, hkid))?;
        ok(Regs::call(leaf::MNG_KEY_CONFIG, tdr, 0))?;
        for _ in 0..MIN_TDCX {
            ok(Regs::call(leaf::MNG_ADDCX, page(), tdr))?;
        }
        let params = machine.shared.pa + PAGE;
        for (i, w) in (0..).zip(PARAMS) {
            emulator::module().machine.write(params + 8 * i, w);
        }
        ok(Regs::call(leaf::MNG_INIT, tdr, params))?;
        let tdvpr = page();
        ok(Regs::call(leaf::VP_CREATE, tdvpr, tdr))?;
        for _ in 1..MIN_TDVPS {
            ok(Regs::call(leaf::VP_ADDCX, page(), tdvpr))?;
        }
        ok(Regs::call(leaf::VP_INIT, tdvpr, 0))?;
        for level in [3, 2, 1] {
            ok(Regs::call3(leaf::MEM_SEPT_ADD, level, tdr, page()))?;
        }
        ok(Regs::call(leaf::MR_FINALIZE, tdr, 0))?;
        let pages = page();
        for i in 0..count {
            let hpa = pages + i * PAGE;
            ok(Regs::call3(leaf::MEM_PAGE_AUG, i * PAGE, tdr, hpa))?;
        }
        Ok(Self {
            tdr,
            hkid,
            tdvpr,
            count,
            pages,
            spare: pages + count * PAGE,
            control: (pages - tdr) / PAGE,
        })
    }

    /// Enters the vCPU once, with a command for all pages.
    pub(super) fn enter(&self, command: u64, arg: u64) -> Regs {
        call(Regs {
            r12: command,
            r14: self.count,
            r15: arg,
            ..Regs::call(leaf::VP_ENTER, self.tdvpr, 0)
        })
    }

    /// Enters the vCPU until it exits for something else than an interrupt.
    pub(super) fn exit(&self, command: u64, arg: u64) -> Regs {
        let mut exit = self.enter(command, arg);
        for _ in 0..MAX_ENTRIES {
            if exit.rax != EXIT_REASON_INTERRUPT {
                break;
            }
            exit = self.enter(command, arg);
        }
        exit
    }

    /// Enters the vCPU until the command is done: pages, mismatches, the first one's GPA, and how
    /// it ended.
    ///
    /// # Errors
    ///
    /// `EIO`: another exit, or it does not get done.
    pub(super) fn run(&self, command: u64, arg: u64) -> Result<(u64, u64, u64, u64)> {
        let r = self.exit(command, arg);
        if r.rax == EXIT_REASON_TDCALL && r.r10 == VMCALL {
            return Ok((r.r12, r.r13, r.r14, r.r15));
        }
        pr_err!("exit {:#x}, RCX {:#x}, R8 {:#x}\n", r.rax, r.rcx, r.r8);
        Err(EIO)
    }

    /// Gives all memory back. The TD's pages are at `pages`.
    pub(super) fn tear_down(&self, pages: u64) -> Result {
        ok(Regs::call(leaf::VP_FLUSH, self.tdvpr, 0))?;
        ok(Regs::call(leaf::MNG_VPFLUSHDONE, self.tdr, 0))?;
        let mut wb = Regs::call(leaf::PHYMEM_CACHE_WB, 0, 0);
        // This CPU may have an interrupt to take.
        while call(wb).rax == INTERRUPTED_RESUMABLE {
            wb.rcx = 1;
        }
        ok(Regs::call(leaf::MNG_KEY_FREEID, self.tdr, 0))?;
        for i in 0..self.count {
            let page = pages + i * PAGE;
            ok(Regs::call(leaf::PHYMEM_PAGE_RECLAIM, page, 0))?;
        }
        // The TDR is the last one.
        for i in (0..self.control).rev() {
            let page = self.tdr + i * PAGE;
            ok(Regs::call(leaf::PHYMEM_PAGE_RECLAIM, page, 0))?;
        }
        Ok(())
    }
}
