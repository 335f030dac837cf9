// SPDX-License-Identifier: GPL-2.0
//! TDG.VM.RD, TDG.VM.WR and TDG.SYS.RD: the metadata fields that a guest can see.
//!
//! Source: the guest's masks in the tables of the published Intel TDX module 1.5.01
//! (`tdr_tdcs_fields_lookup.c`, `global_sys_fields_lookup.c`). TD_CTLS.ENUM_TOPOLOGY and
//! TOPOLOGY_ENUM_CONFIGURED are of 1.5.05 (Intel TDX module 1.5 ABI definitions).

use super::guest::{GuestOutcome, Stop, Vcpu};
use super::metadata::{self, NONE};
use crate::mem::Machine;
use crate::module::Module;
use crate::regs::{op, tdcall, Regs};
use crate::status::{
    with_op, Res, METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE,
    METADATA_FIELD_NOT_WRITABLE, METADATA_FIELD_VALUE_NOT_VALID,
    METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_INVALID,
};
use crate::td::{td_ctls, tdcs, Td};

/// CONFIG_FLAGS: the guest may change TD_CTLS.PENDING_VE_DISABLE.
const FLEXIBLE_PENDING_VE: u64 = 1 << 1;

/// Field id of the first element, number of elements, bits the guest can write. Sorted as
/// the context's order is.
const TD: &[(u64, u64, u64)] = &[
    (0x8010_0003_0000_0020, 4, 0),
    (0x9010_0002_0000_0001, 1, 0),
    (0x9010_0001_0000_0005, 1, 0),
    (0x1110_0003_0000_0000, 1, 0),
    (0x1110_0003_0000_0001, 1, 0),
    (0x1110_0002_0000_0002, 1, 0),
    (0x1110_0000_0000_0003, 1, 0),
    (0x1110_0001_0000_000C, 1, 0),
    (0x9110_0003_0000_0010, 1, 1),
    (0x1110_0003_0000_0016, 1, 0),
    (
        0x1110_0003_0000_0017,
        1,
        td_ctls::PENDING_VE_DISABLE | td_ctls::ENUM_TOPOLOGY,
    ),
    (0x9110_0000_0000_0019, 1, 0),
    (0x1310_0003_0000_0000, 6, 0),
    (0x1310_0003_0000_0010, 6, 0),
    (0x1310_0003_0000_0018, 6, 0),
    (0x1310_0003_0000_0020, 6, 0),
    (0x1310_0003_0000_0040, 24, 0),
];

/// Fields of the module: VENDOR_ID, MINOR_VERSION, MAJOR_VERSION, SYS_ATTRIBUTES,
/// NUM_TDX_FEATURES, TDX_FEATURES0.
const SYS: &[(u64, u64)] = &[
    (0x0800_0002_0000_0000, 0x8086),
    (0x0800_0001_0000_0003, 5),
    (0x0800_0001_0000_0004, 1),
    (0x0A00_0002_0000_0000, 0),
    (0x0A00_0000_0000_0001, 1),
    (0x0A00_0003_0000_0008, metadata::FEATURES0),
];

/// What identifies a field: class, element size and code.
const KEY: u64 = 0x3F00_0000_00FF_FFFF;

fn td_row(field: u64) -> Option<usize> {
    TD.iter().position(|(first, n, _)| {
        let (f, e) = (field & KEY, first & KEY);
        (e..e + n).contains(&f)
    })
}

fn td_next(field: u64, row: usize) -> u64 {
    let (first, n, _) = TD[row];
    let index = (field & 0xFF_FFFF) - (first & 0xFF_FFFF);
    if index + 1 < n {
        first + index + 1
    } else {
        TD.get(row + 1).map_or(NONE, |r| r.0)
    }
}

impl<M: Machine> Module<M> {
    fn td_guest_field(&self, td: &Td, field: u64) -> Res<(u64, u64)> {
        if !metadata::well_formed(field) {
            return Err(METADATA_FIELD_ID_INCORRECT);
        }
        let Some(row) = td_row(field) else {
            // The host sees it, or nobody does.
            return Err(match self.td_field(td, field, false) {
                Ok(_) => METADATA_FIELD_NOT_READABLE,
                Err(e) => e,
            });
        };
        Ok((self.td_field(td, field, false)?.0, td_next(field, row)))
    }

    fn td_guest_write(&self, td: &Td, field: u64, data: u64, mask: u64) -> Res<u64> {
        if !metadata::well_formed(field) {
            return Err(METADATA_FIELD_ID_INCORRECT);
        }
        let writable = td_row(field).map_or(0, |row| TD[row].2);
        let mask = mask & writable;
        if mask == 0 {
            return Err(METADATA_FIELD_NOT_WRITABLE);
        }
        let at = match field & 0xFF_FFFF {
            0x10 => tdcs::NOTIFY_ENABLES,
            _ => tdcs::TD_CTLS,
        };
        let old = self.tdcs_rd(td, at);
        let changed = (old ^ data) & mask;
        let fixed = |bit, may: bool| at == tdcs::TD_CTLS && changed & bit != 0 && !may;
        let flexible = self.tdcs_rd(td, tdcs::CONFIG_FLAGS) & FLEXIBLE_PENDING_VE != 0;
        if fixed(td_ctls::PENDING_VE_DISABLE, flexible)
            || fixed(td_ctls::ENUM_TOPOLOGY, self.topology_configured(td))
        {
            return Err(METADATA_FIELD_VALUE_NOT_VALID);
        }
        self.tdcs_wr(td, at, old & !mask | data & mask);
        Ok(old)
    }

    /// TDG.VM.RD and TDG.VM.WR.
    pub(super) fn vm_rdwr(&self, v: &Vcpu, regs: &Regs, write: bool, version: u8) -> GuestOutcome {
        let leaf = if write { tdcall::VM_WR } else { tdcall::VM_RD };
        let (mut next, mut value) = (NONE, 0);
        let r = if regs.rcx != 0 {
            Err(with_op(OPERAND_INVALID, op::RCX))
        } else if !write && version > 0 && regs.rdx == NONE {
            next = TD[0].0;
            Err(METADATA_FIRST_FIELD_ID_IN_CONTEXT)
        } else if write {
            self.td_guest_write(&v.td, regs.rdx, regs.r8, regs.r9)
                .map(|old| (old, NONE))
        } else {
            self.td_guest_field(&v.td, regs.rdx)
        };
        if let Ok((read, following)) = r {
            (value, next) = (read, following);
        }
        self.field_answer(
            v,
            leaf,
            r.err(),
            value,
            (!write && version > 0).then_some(next),
        )
    }

    /// TDG.SYS.RD.
    pub(super) fn guest_sys_rd(&self, v: &Vcpu, regs: &Regs) -> GuestOutcome {
        let field = regs.rdx;
        let (mut next, mut value) = (NONE, 0);
        let mut error = None;
        let row = SYS.iter().position(|f| f.0 & KEY == field & KEY);
        match row {
            _ if field == NONE => {
                next = SYS[0].0;
                error = Some(METADATA_FIRST_FIELD_ID_IN_CONTEXT);
            }
            Some(i) if metadata::well_formed(field) => {
                value = SYS[i].1;
                next = SYS.get(i + 1).map_or(NONE, |f| f.0);
            }
            _ => {
                error = Some(match self.sys_field(field) {
                    Ok(_) => METADATA_FIELD_NOT_READABLE,
                    Err(e) => e,
                });
            }
        }
        self.field_answer(v, tdcall::SYS_RD, error, value, Some(next))
    }

    fn field_answer(
        &self,
        v: &Vcpu,
        leaf: u16,
        error: Option<u64>,
        value: u64,
        next: Option<u64>,
    ) -> GuestOutcome {
        let mut regs = self.gprs_rd(&v.td, v.tdvpr);
        regs.r8 = value;
        if let Some(next) = next {
            regs.rdx = next;
        }
        self.gprs_wr(&v.td, v.tdvpr, &regs);
        self.tdcall_end(v, leaf, error.map_or(Ok(()), |e| Err(Stop::Status(e))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_of_the_context_is_visited_once() {
        let (mut field, mut n) = (TD[0].0, 0);
        while field != NONE {
            let row = td_row(field).unwrap();
            field = td_next(field, row);
            n += 1;
        }
        assert_eq!(n, TD.iter().map(|r| r.1).sum::<u64>());
    }
}
