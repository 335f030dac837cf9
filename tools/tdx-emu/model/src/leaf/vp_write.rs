// SPDX-License-Identifier: GPL-2.0
//! The fields of a vCPU that a host can write.

use super::metadata;
use crate::mem::Machine;
use crate::module::Module;
use crate::status::{Res, METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_WRITABLE};
use crate::td::{tdvps, Td};

/// Field class, field code, where it is in the TDVPR, writable bits. The codes
/// of class 0 are VMCS encodings.
const WRITABLE: [(u64, u64, u64, u64); 7] = [
    (0x00, 0x0002, tdvps::POSTED_VECTOR, 0xFF),
    (
        0x00,
        0x2016,
        tdvps::POSTED_DESCRIPTOR,
        0x000F_FFFF_FFFF_FFC0,
    ),
    (0x00, 0x203C, tdvps::SHARED_EPTP, 0x000F_FFFF_FFFF_F000),
    // Process posted interrupts.
    (0x00, 0x4000, tdvps::PIN_CONTROLS, 1 << 7),
    // Bus lock detection, notify.
    (0x00, 0x401E, tdvps::SECONDARY_CONTROLS, 3 << 30),
    (0x00, 0x4024, tdvps::NOTIFY_WINDOW, 0xFFFF_FFFF),
    (0x20, 0x000B, tdvps::PEND_NMI, 1),
];

impl<M: Machine> Module<M> {
    /// VP.WR: the former value.
    pub(super) fn vp_field_write(
        &self,
        td: &Td,
        tdvpr: u64,
        field: u64,
        data: u64,
        mask: u64,
    ) -> Res<u64> {
        if !metadata::well_formed(field) {
            return Err(METADATA_FIELD_ID_INCORRECT);
        }
        let id = (field >> 56 & 0x3F, field & 0xFF_FFFF);
        let (.., at, bits) = WRITABLE
            .into_iter()
            .find(|f| (f.0, f.1) == id)
            .ok_or(METADATA_FIELD_NOT_WRITABLE)?;
        let mask = mask & bits;
        if mask == 0 {
            return Err(METADATA_FIELD_NOT_WRITABLE);
        }
        let old = self.vp_rd(td, tdvpr, at);
        self.vp_wr(td, tdvpr, at, old & !mask | data & mask);
        Ok(old)
    }
}
