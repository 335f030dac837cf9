// SPDX-License-Identifier: GPL-2.0
//! Sparse memory that is cheap to copy, and the platform around it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tdx_emu_model::log::CallRecord;
use tdx_emu_model::{PhysMem, Platform};

type Page = Rc<[u64; 512]>;

/// A machine for one thread: pages appear when something other than zero is
/// written; clones share them until one side writes.
#[derive(Clone, Debug, Default)]
pub struct SparseMachine {
    pages: RefCell<HashMap<u64, Page>>,
    tsc: Cell<u64>,
    interrupt: Cell<bool>,
    pconfig: Cell<u64>,
    rng: Cell<u64>,
    log: RefCell<Option<Vec<CallRecord>>>,
}

impl SparseMachine {
    /// Starts to record calls, or stops and returns them.
    pub fn record(&self, on: bool) -> Vec<CallRecord> {
        self.log.replace(on.then(Vec::new)).unwrap_or_default()
    }
    /// Lets the time stamp counter jump.
    pub fn advance_tsc(&self, ticks: u64) {
        self.tsc.set(self.tsc.get().wrapping_add(ticks));
    }
    /// Whether interrupts are pending from now on.
    pub fn set_interrupt(&self, pending: bool) {
        self.interrupt.set(pending);
    }
    /// The result of key programming from now on.
    pub fn set_pconfig(&self, result: u64) {
        self.pconfig.set(result);
    }
}

impl PhysMem for SparseMachine {
    fn read(&self, pa: u64) -> u64 {
        self.pages
            .borrow()
            .get(&(pa >> 12))
            .map_or(0, |p| p[(pa >> 3 & 511) as usize])
    }
    fn write(&self, pa: u64, value: u64) {
        let mut pages = self.pages.borrow_mut();
        let slot = (pa >> 3 & 511) as usize;
        if let Some(p) = pages.get_mut(&(pa >> 12)) {
            if p[slot] != value {
                Rc::make_mut(p)[slot] = value;
            }
        } else if value != 0 {
            let mut p = [0; 512];
            p[slot] = value;
            pages.insert(pa >> 12, Rc::new(p));
        }
    }
    fn cas(&self, pa: u64, old: u64, new: u64) -> Result<(), u64> {
        let now = self.read(pa);
        if now != old {
            return Err(now);
        }
        self.write(pa, new);
        Ok(())
    }
}

impl Platform for SparseMachine {
    fn tsc(&self, _lp: usize) -> u64 {
        self.tsc.set(self.tsc.get().wrapping_add(1000));
        self.tsc.get()
    }
    fn interrupt_pending(&self, _lp: usize) -> bool {
        self.interrupt.get()
    }
    fn pconfig(&self, _lp: usize, _hkid: u16) -> u64 {
        self.pconfig.get()
    }
    fn random(&self) -> Option<u64> {
        let x = self.rng.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.rng.set(x);
        Some(x ^ x >> 29)
    }
    fn log(&self, record: &CallRecord) {
        if let Some(log) = self.log.borrow_mut().as_mut() {
            log.push(*record);
        }
    }
}
