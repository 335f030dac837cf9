// SPDX-License-Identifier: GPL-2.0
//! The module's own data and keyed access to memory.

use crate::cipher;
use crate::config::{Config, MAX_HKIDS, MAX_LPS, MAX_PKGS, MAX_RESERVED, MAX_TDMRS};
use crate::fault::FaultPlan;
use crate::mem::{Machine, Word, LINE, PAGE};
use crate::status::{Res, INTERNAL_FATAL};

/// States of the module.
pub(crate) mod sys_state {
    pub const INIT_PENDING: u64 = 0;
    pub const INIT_DONE: u64 = 1;
    pub const CONFIG_DONE: u64 = 2;
    pub const READY: u64 = 3;
    pub const SHUTDOWN: u64 = 4;
}

/// States of a KeyID (key ownership table).
pub(crate) mod kot {
    pub const FREE: u64 = 0;
    pub const ASSIGNED: u64 = 1;
    pub const FLUSHED: u64 = 2;
    pub const RESERVED: u64 = 3;
}

/// A trusted memory region.
#[derive(Clone, Debug)]
pub(crate) struct Tdmr {
    pub base: Word,
    pub size: Word,
    /// PAMT arrays by size level (4K, 2M, 1G).
    pub pamt: [Word; 3],
    /// Memory below this address has an initialized PAMT.
    pub initialized: Word,
    pub lock: Word,
    pub reserved: [(Word, Word); MAX_RESERVED],
}

impl Tdmr {
    const fn new() -> Self {
        Tdmr {
            base: Word::new(0),
            size: Word::new(0),
            pamt: [const { Word::new(0) }; 3],
            initialized: Word::new(0),
            lock: Word::new(0),
            reserved: [const { (Word::new(0), Word::new(0)) }; MAX_RESERVED],
        }
    }
}

/// One KeyID.
#[derive(Clone, Debug)]
pub(crate) struct Hkid {
    pub state: Word,
    /// Packages whose caches still hold lines of the KeyID.
    pub wb_pending: Word,
    /// Key material; 0 = none, content is plain.
    pub key: Word,
}

impl Hkid {
    const fn new() -> Self {
        Hkid {
            state: Word::new(kot::FREE),
            wb_pending: Word::new(0),
            key: Word::new(0),
        }
    }
}

/// One logical processor.
#[derive(Clone, Debug)]
pub(crate) struct Lp {
    pub initialized: Word,
    /// TDVPR of the vCPU that is in the guest on this LP, or 0.
    pub tdvpr: Word,
    /// TDR of its TD.
    pub tdr: Word,
    /// TDVPR of the vCPU that last ran here.
    pub last_tdvpr: Word,
    /// Guest RIP at the last entry.
    pub rip_on_entry: Word,
    /// Bytes the next entry must not find stale: generation of EPT flushes.
    pub invepts: Word,
}

impl Lp {
    const fn new() -> Self {
        Lp {
            initialized: Word::new(0),
            tdvpr: Word::new(0),
            tdr: Word::new(0),
            last_tdvpr: Word::new(0),
            rip_on_entry: Word::new(0),
            invepts: Word::new(0),
        }
    }
}

/// Write-back state of a package.
#[derive(Clone, Debug)]
pub(crate) struct CacheWb {
    pub lock: Word,
    pub intr_point: Word,
    /// KeyIDs (bits) whose lines the running write-back covers.
    pub covers: [Word; MAX_HKIDS / 64],
}

impl CacheWb {
    const fn new() -> Self {
        CacheWb {
            lock: Word::new(0),
            intr_point: Word::new(0),
            covers: [const { Word::new(0) }; MAX_HKIDS / 64],
        }
    }
}

/// A write to memory of a TD that did not come from the TD or the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The cache line that fails its check.
    pub pa: u64,
    /// How many violations there were, this one included.
    pub count: u64,
}

pub(crate) struct Global {
    pub sys_state: Word,
    pub lock: Word,
    pub hkid: Word,
    pub lps_initialized: Word,
    pub pkgs_keyed: Word,
    pub n_tdmrs: Word,
    pub tdmrs: [Tdmr; MAX_TDMRS],
    pub kot_lock: Word,
    pub hkids: [Hkid; MAX_HKIDS],
    pub wb: [CacheWb; MAX_PKGS],
    pub lps: Word,
    pub lp: [Lp; MAX_LPS],
    /// UD2 in SEAM: no call is answered any more.
    pub dead: Word,
    pub violations: Word,
    pub violation_pa: Word,
}

/// The TDX module.
///
/// All methods take `&self`: calls from several logical processors may overlap
/// when the machine is `Sync`, and then fail with BUSY statuses as on hardware.
pub struct Module<M> {
    /// The machine it runs on.
    pub machine: M,
    /// What the platform told it.
    pub config: Config,
    /// Failures to inject.
    pub faults: FaultPlan,
    pub(crate) g: Global,
}

impl<M: Machine> Module<M> {
    /// A module that has just been loaded: SYS.INIT is pending.
    ///
    /// It is some 40 KiB large. Where the stack is small, build it in a
    /// `static` (this is a `const fn`) and tell it the number of logical
    /// processors later with [`Module::set_lps`].
    pub const fn new(machine: M, config: Config) -> Self {
        Module {
            machine,
            faults: FaultPlan::new(),
            g: Global {
                sys_state: Word::new(sys_state::INIT_PENDING),
                lock: Word::new(0),
                hkid: Word::new(0),
                lps: Word::new(config.lps as u64),
                lps_initialized: Word::new(0),
                pkgs_keyed: Word::new(0),
                n_tdmrs: Word::new(0),
                tdmrs: [const { Tdmr::new() }; MAX_TDMRS],
                kot_lock: Word::new(0),
                hkids: [const { Hkid::new() }; MAX_HKIDS],
                wb: [const { CacheWb::new() }; MAX_PKGS],
                lp: [const { Lp::new() }; MAX_LPS],
                dead: Word::new(0),
                violations: Word::new(0),
                violation_pa: Word::new(0),
            },
            config,
        }
    }

    /// Number of logical processors.
    pub fn lps(&self) -> usize {
        (self.g.lps.get() as usize).min(MAX_LPS)
    }

    /// Sets the number of logical processors; only before SYS.CONFIG.
    pub fn set_lps(&self, lps: usize) {
        self.g.lps.set(lps as u64);
    }

    /// Unloads the module and loads it again: all it knows is gone, except the
    /// fault plan. What it had in memory stays there, and belongs to nobody.
    ///
    /// No call may be under way.
    pub fn reset(&self) {
        let g = &self.g;
        for w in [
            &g.sys_state,
            &g.lock,
            &g.hkid,
            &g.lps_initialized,
            &g.pkgs_keyed,
            &g.n_tdmrs,
            &g.kot_lock,
            &g.dead,
            &g.violations,
            &g.violation_pa,
        ] {
            w.set(0);
        }
        for h in &g.hkids {
            h.state.set(kot::FREE);
            h.wb_pending.set(0);
            h.key.set(0);
        }
        for wb in &g.wb {
            wb.lock.set(0);
            wb.intr_point.set(0);
        }
        for lp in &g.lp {
            for w in [&lp.initialized, &lp.tdvpr, &lp.tdr, &lp.last_tdvpr] {
                w.set(0);
            }
        }
    }

    /// A module in the same state on another machine (whose memory must have
    /// the same content).
    pub fn fork<N: Machine>(&self, machine: N) -> Module<N> {
        Module {
            machine,
            config: self.config.clone(),
            faults: self.faults.clone(),
            g: Global {
                sys_state: self.g.sys_state.clone(),
                lock: self.g.lock.clone(),
                hkid: self.g.hkid.clone(),
                lps_initialized: self.g.lps_initialized.clone(),
                pkgs_keyed: self.g.pkgs_keyed.clone(),
                n_tdmrs: self.g.n_tdmrs.clone(),
                tdmrs: self.g.tdmrs.clone(),
                kot_lock: self.g.kot_lock.clone(),
                hkids: self.g.hkids.clone(),
                wb: self.g.wb.clone(),
                lps: self.g.lps.clone(),
                lp: self.g.lp.clone(),
                dead: self.g.dead.clone(),
                violations: self.g.violations.clone(),
                violation_pa: self.g.violation_pa.clone(),
            },
        }
    }

    /// The last stray write that was detected.
    pub fn violation(&self) -> Option<Violation> {
        let count = self.g.violations.get();
        (count != 0).then(|| Violation {
            pa: self.g.violation_pa.get(),
            count,
        })
    }

    /// Whether the module has shut itself down (UD2 in SEAM).
    pub fn is_dead(&self) -> bool {
        self.g.dead.get() != 0
    }

    /// The module meets something impossible: it executes UD2.
    pub(crate) fn fatal<T>(&self) -> Res<T> {
        Err(INTERNAL_FATAL)
    }

    pub(crate) fn global_hkid(&self) -> u16 {
        self.g.hkid.get() as u16
    }

    pub(crate) fn key(&self, hkid: u16) -> u64 {
        if !self.config.cipher {
            return 0;
        }
        self.g.hkids[usize::from(hkid) % MAX_HKIDS].key.get()
    }

    /// Reads a word through a KeyID.
    pub(crate) fn rd(&self, hkid: u16, pa: u64) -> u64 {
        cipher::decrypt(self.key(hkid), pa, self.machine.read(pa))
    }

    /// Writes a word through a KeyID.
    pub(crate) fn wr(&self, hkid: u16, pa: u64, value: u64) {
        self.machine
            .write(pa, cipher::encrypt(self.key(hkid), pa, value));
    }

    /// Atomically updates a word through a KeyID: `f` gives the new word and a
    /// result. Several callers may do this at once.
    pub(crate) fn update<T>(&self, hkid: u16, pa: u64, f: impl Fn(u64) -> (u64, T)) -> T {
        let key = self.key(hkid);
        let mut raw = self.machine.read(pa);
        loop {
            let (new, out) = f(cipher::decrypt(key, pa, raw));
            match self.machine.cas(pa, raw, cipher::encrypt(key, pa, new)) {
                Ok(()) => return out,
                Err(now) => raw = now,
            }
        }
    }

    /// Adds to a word (wrapping) and returns the former value.
    pub(crate) fn add(&self, hkid: u16, pa: u64, n: u64) -> u64 {
        self.update(hkid, pa, |w| (w.wrapping_add(n), w))
    }

    /// Fills a page with one value.
    pub(crate) fn fill(&self, hkid: u16, page: u64, value: u64) {
        let mut pa = page;
        while pa < page + PAGE {
            self.wr(hkid, pa, value);
            pa += 8;
        }
    }

    pub(crate) fn line_tag(&self, hkid: u16, line: u64) -> u64 {
        let mut t = cipher::absorb(self.key(hkid) ^ u64::from(hkid), line);
        let mut pa = line;
        while pa < line + LINE {
            t = cipher::absorb(t, self.machine.read(pa));
            pa += 8;
        }
        t & self.machine.tag_mask() | 1
    }

    /// Seals the lines of a page: from now on they belong to `hkid`.
    pub(crate) fn seal_page(&self, hkid: u16, page: u64) {
        if !self.machine.has_tags() {
            return;
        }
        let mut line = page;
        while line < page + PAGE {
            self.machine.set_tag(line, self.line_tag(hkid, line));
            line += LINE;
        }
    }

    /// The lines from `page` on belong to nobody any more.
    pub(crate) fn unseal(&self, page: u64, size: u64) {
        if !self.machine.has_tags() {
            return;
        }
        let mut line = page;
        while line < page + size {
            self.machine.set_tag(line, 0);
            line += LINE;
        }
    }

    /// Checks the line that holds `pa`.
    ///
    /// # Errors
    /// Its content is not what the owner wrote.
    pub(crate) fn check_line(&self, hkid: u16, pa: u64) -> Result<(), Violation> {
        let line = pa & !(LINE - 1);
        if !self.machine.has_tags() {
            return Ok(());
        }
        let tag = self.machine.tag(line);
        if tag == 0 || tag == self.line_tag(hkid, line) {
            return Ok(());
        }
        Err(self.violated(line))
    }

    /// Notes that the line at `pa` is not what the TD that uses it wrote there.
    pub(crate) fn violated(&self, pa: u64) -> Violation {
        self.g.violation_pa.set(pa);
        let count = self.g.violations.add(1) + 1;
        Violation { pa, count }
    }

    /// Reads a word of TD content, checking its integrity.
    pub(crate) fn rd_checked(&self, hkid: u16, pa: u64) -> Result<u64, Violation> {
        self.check_line(hkid, pa)?;
        Ok(self.rd(hkid, pa))
    }

    /// Writes a word of TD content and seals its line.
    pub(crate) fn wr_sealed(&self, hkid: u16, pa: u64, value: u64) {
        self.wr(hkid, pa, value);
        self.reseal_line(hkid, pa & !(LINE - 1));
    }

    /// Seals a line again that the TD has written to.
    pub(crate) fn reseal_line(&self, hkid: u16, line: u64) {
        if self.machine.has_tags() && self.machine.tag(line) != 0 {
            self.machine.set_tag(line, self.line_tag(hkid, line));
        }
    }

    /// Copies a page with whole-line stores, from one KeyID to another, and
    /// seals the copy.
    pub(crate) fn copy_page(&self, from: (u16, u64), to: (u16, u64)) -> Res {
        let mut off = 0;
        while off < PAGE {
            if off % LINE == 0 && self.check_line(from.0, from.1 + off).is_err() {
                return self.fatal();
            }
            self.wr(to.0, to.1 + off, self.rd(from.0, from.1 + off));
            off += 8;
        }
        self.seal_page(to.0, to.1);
        Ok(())
    }

    /// Zeroes a page of TD content.
    pub(crate) fn zero_page(&self, hkid: u16, page: u64) {
        self.fill(hkid, page, 0);
        self.seal_page(hkid, page);
    }
}
