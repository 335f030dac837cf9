// SPDX-License-Identifier: GPL-2.0

//! Which TDs and vCPUs there are, by their TDR and TDVPR pages.
//!
//! Follows the calls from outside: the module itself has no such list. Each TD keeps the kernel
//! module loaded, for without it nobody could give its memory back to the host.

use crate::glue;
use core::sync::atomic::{
    AtomicU64,
    Ordering::SeqCst, //
};
use tdx_emu_model::{
    regs::leaf,
    status::SUCCESS,
    Regs, //
};

/// There are no more KeyIDs for TDs than this.
const TDS: usize = 64;
const VCPUS: usize = 512;

/// A table of page addresses, 0 where it is free, each with an attribute.
struct Table<const N: usize>([(AtomicU64, AtomicU64); N]);

impl<const N: usize> Table<N> {
    const fn new() -> Self {
        Self([const { (AtomicU64::new(0), AtomicU64::new(0)) }; N])
    }

    fn add(&self, pa: u64, attribute: u64) {
        let free =
            |at: &&(AtomicU64, AtomicU64)| at.0.compare_exchange(0, pa, SeqCst, SeqCst).is_ok();
        if let Some((_, a)) = self.0.iter().find(free) {
            a.store(attribute, SeqCst);
        }
    }

    fn remove(&self, pa: u64) -> bool {
        self.0
            .iter()
            .any(|at| at.0.compare_exchange(pa, 0, SeqCst, SeqCst).is_ok())
    }

    fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0
            .iter()
            .map(|(pa, a)| (pa.load(SeqCst), a.load(SeqCst)))
            .filter(|&(pa, _)| pa != 0)
    }
}

/// What belongs to TDs.
pub(crate) struct Owned {
    tds: Table<TDS>,
    /// With their TDRs.
    vcpus: Table<VCPUS>,
}

/// The one instance.
pub(crate) static OWNED: Owned = Owned {
    tds: Table::new(),
    vcpus: Table::new(),
};

/// A TD may be created while this exists: the module stays loaded.
pub(crate) struct Pinned(());

impl Pinned {
    fn new() -> Option<Self> {
        glue::pin().then_some(Self(()))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        glue::unpin();
    }
}

impl Owned {
    /// Before a call. `None`: it must not be carried out, as the module is being unloaded.
    pub(crate) fn before(&self, call: &Regs) -> Option<Option<Pinned>> {
        if call.rax == u64::from(leaf::MNG_CREATE) {
            return Pinned::new().map(Some);
        }
        Some(None)
    }

    /// After a call that ended as `status`.
    pub(crate) fn after(&self, call: &Regs, status: u64, pinned: Option<Pinned>) {
        if status != SUCCESS {
            return;
        }
        match call.rax as u16 {
            leaf::MNG_CREATE => {
                self.tds.add(call.rcx, call.rdx);
                // The TD has it now.
                core::mem::forget(pinned);
            }
            leaf::VP_CREATE => self.vcpus.add(call.rcx, call.rdx),
            leaf::PHYMEM_PAGE_RECLAIM => {
                if self.tds.remove(call.rcx) {
                    glue::unpin();
                } else {
                    self.vcpus.remove(call.rcx);
                }
            }
            _ => {}
        }
    }

    /// TDR and KeyID of every TD.
    pub(crate) fn tds(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.tds.iter()
    }

    /// TDVPR of every vCPU of a TD.
    pub(crate) fn vcpus(&self, tdr: u64) -> impl Iterator<Item = u64> + '_ {
        self.vcpus
            .iter()
            .filter(move |&(_, owner)| owner == tdr)
            .map(|(pa, _)| pa)
    }
}
