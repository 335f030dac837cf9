// SPDX-License-Identifier: GPL-2.0

//! For tests: the instruction, memory, and a module that is ready.

use crate::{
    emulator,
    ffi,
    glue::Range,
    owned::OWNED, //
};
use core::ffi::c_void;
use kernel::prelude::*;
use tdx_emu_model::{
    config::MAX_RESERVED,
    mem::PAGE,
    regs::leaf,
    status::SUCCESS,
    PhysMem,
    Regs, //
};

const GIB: u64 = 1 << 30;
/// The largest allocation: 4 MiB.
const LARGE: u32 = 10;
/// Bytes of an entry of the PAMT.
const PAMT_ENTRY: u64 = 16;

/// Executes SEAMCALL; `None`: CF is set. RBX, RSI and RBP are neither passed nor returned.
pub(super) fn seamcall(call: Regs) -> Option<Regs> {
    let mut r = call;
    let mut cf = 0u64;
    // SAFETY: The trap handler of this very module completes the instruction and changes
    // registers that are listed, RBX, which is restored, and flags. Memory that it changes is
    // this test's or the module's.
    unsafe {
        core::arch::asm!(
            "push rbx",
            ".byte 0x66, 0x0f, 0x01, 0xcf",
            "pop rbx",
            "setc sil",
            "movzx esi, sil",
            inout("rax") r.rax,
            inout("rcx") r.rcx,
            inout("rdx") r.rdx,
            inout("rsi") cf,
            inout("rdi") r.rdi,
            inout("r8") r.r8,
            inout("r9") r.r9,
            inout("r10") r.r10,
            inout("r11") r.r11,
            inout("r12") r.r12,
            inout("r13") r.r13,
            inout("r14") r.r14,
            inout("r15") r.r15,
        )
    };
    (cf == 0).then_some(r)
}

/// The same for calls that the module answers; RAX is all ones if it does not.
pub(super) fn call(regs: Regs) -> Regs {
    seamcall(regs).unwrap_or(Regs {
        rax: u64::MAX,
        ..regs
    })
}

/// A call that must succeed.
///
/// # Errors
///
/// `EIO`: it failed, as the log says.
pub(super) fn ok(regs: Regs) -> Result<Regs> {
    let out = call(regs);
    if out.rax == SUCCESS {
        return Ok(out);
    }
    pr_err!("leaf {} ends as {:#x}\n", regs.rax, out.rax);
    Err(EIO)
}

/// Pages that follow each other.
pub(super) struct Chunk {
    pub(super) pa: u64,
    order: u32,
}

impl Chunk {
    pub(super) fn new(order: u32) -> Result<Self> {
        // SAFETY: KUnit runs tests in process context.
        match unsafe { ffi::tdxemu_glue_alloc(order) } {
            0 => Err(ENOMEM),
            pa => Ok(Self { pa, order }),
        }
    }

    fn range(&self) -> Range {
        (self.pa, PAGE << self.order)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if OWNED.tds().next().is_some() {
            pr_err!("a test has failed and left a TD: {:#x} is lost\n", self.pa);
            return;
        }
        // SAFETY: These are the pages that `new` got, and the module has given back what was
        // lent to it.
        unsafe { ffi::tdxemu_glue_free(self.pa, self.order) }
    }
}

/// A READY module with a TDMR that holds 4 MiB for TDs. Stays on one CPU.
pub(super) struct Machine {
    /// 4 MiB in the TDMR.
    pub(super) pool: Chunk,
    /// Pages that are not.
    pub(super) shared: Chunk,
    pub(super) global_hkid: u64,
    _pamt: [Chunk; 2],
}

extern "C" fn lp_init(failed: *mut c_void) {
    if call(Regs::call(leaf::SYS_LP_INIT, 0, 0)).rax != SUCCESS {
        // SAFETY: The caller's counter, which it does not look at until all CPUs are done.
        unsafe { core::sync::atomic::AtomicU32::from_ptr(failed.cast()) }
            .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    }
}

/// The parts of a block of 1 GiB that TDs must not get: what is no RAM, and the PAMT.
fn reserved(base: u64, pamt: &[Chunk; 2]) -> Result<[Range; MAX_RESERVED]> {
    let mut all = [(u64::MAX, 0); MAX_RESERVED];
    let mut n = 0;
    let mut add = |from: u64, to: u64| {
        let (from, to) = (from.max(base), to.min(base + GIB));
        if from < to {
            *all.get_mut(n).ok_or(E2BIG)? = (from - base, to - from);
            n += 1;
        }
        Ok::<(), Error>(())
    };
    let mut end = 0;
    for &(start, size) in emulator::module().machine.ram() {
        if size != 0 {
            add(end, start)?;
            end = start + size;
        }
    }
    add(end, u64::MAX)?;
    for (start, size) in pamt.iter().map(Chunk::range) {
        add(start, start + size)?;
    }
    all.sort_unstable();
    for r in &mut all {
        if r.1 == 0 {
            *r = (0, 0);
        }
    }
    Ok(all)
}

impl Machine {
    pub(super) fn start() -> Result<Self> {
        let pool = Chunk::new(LARGE)?;
        let shared = Chunk::new(1)?;
        // 4 MiB for the entries of 4 KiB pages; 8 KiB and 4 KiB for the larger ones.
        let pamt = [Chunk::new(LARGE)?, Chunk::new(2)?];
        let base = pool.pa & !(GIB - 1);
        let (list, info) = (shared.pa, shared.pa + 512);
        let memory = &emulator::module().machine;
        memory.write(list, info);
        let small = pamt[1].pa;
        let head = [
            base,
            GIB,
            small,
            PAGE,
            small + PAGE,
            2 * PAGE,
            pamt[0].pa,
            GIB / PAGE * PAMT_ENTRY,
        ];
        let areas = reserved(base, &pamt)?;
        let tail = areas.iter().flat_map(|&(off, size)| [off, size]);
        for (i, w) in (0..).zip(Iterator::chain(head.into_iter(), tail)) {
            memory.write(info + 8 * i, w);
        }
        let global_hkid = u64::from(emulator::module().config.first_private_hkid);

        ok(Regs::call(leaf::SYS_INIT, 0, 0))?;
        let mut failed = 0u32;
        // SAFETY: `failed` outlives the call, which waits.
        unsafe {
            ffi::tdxemu_glue_on_each_cpu(Some(lp_init), core::ptr::from_mut(&mut failed).cast())
        };
        if failed != 0 {
            return Err(EIO);
        }
        ok(Regs::call3(leaf::SYS_CONFIG, list, 1, global_hkid))?;
        ok(Regs::call(leaf::SYS_KEY_CONFIG, 0, 0))?;
        while ok(Regs::call(leaf::SYS_TDMR_INIT, base, 0))?.rdx < base + GIB {}
        // SAFETY: Enabled again when `self` is dropped, by this task.
        unsafe { ffi::tdxemu_glue_migrate_disable() };
        Ok(Self {
            pool,
            shared,
            global_hkid,
            _pamt: pamt,
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: Was disabled by `start`.
        unsafe { ffi::tdxemu_glue_migrate_enable() }
    }
}
