// SPDX-License-Identifier: GPL-2.0
//! Metadata fields: the ones Linux reads with SYS.RD, and the few fields of a
//! TD and a vCPU that a host can read.
//!
//! A field id is matched by class, field code and element size; context bits
//! are ignored. Field ids: Intel TDX module 1.5 ABI definitions (JSON tables).

use super::cpuid;
use crate::config::{MAX_RESERVED, MAX_TDMRS};
use crate::mem::Machine;
use crate::module::Module;
use crate::status::{
    Res, METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE,
    METADATA_FIRST_FIELD_ID_IN_CONTEXT,
};
use crate::td::{tdcs, tdr, tdvps, Td};

/// "First field" as input, "no further field" as output.
pub const NONE: u64 = u64::MAX;

/// Bits 31:24, 49:34, 55 and 62 of a single element's id are zero.
const RESERVED: u64 = 0xFF << 24 | 0xFFFF << 34 | 1 << 55 | 1 << 62;
/// What identifies a field: class, element size and code.
const KEY: u64 = 0x3F00_0003_00FF_FFFF;

/// Sorted list of global fields.
const SYS: [u64; 29] = [
    0x0800_0001_0000_0003,
    0x0800_0001_0000_0004,
    0x0800_0001_0000_0005,
    0x0A00_0003_0000_0008,
    0x1900_0003_0000_0000,
    0x1900_0003_0000_0001,
    0x1900_0003_0000_0002,
    0x1900_0003_0000_0003,
    0x8900_0001_0000_0000,
    0x9100_0001_0000_0008,
    0x9100_0001_0000_0009,
    0x9100_0001_0000_0010,
    0x9100_0001_0000_0011,
    0x9100_0001_0000_0012,
    0x9800_0001_0000_0000,
    0x9800_0001_0000_0100,
    0x9800_0001_0000_0200,
    0x9900_0001_0000_0004,
    0x9900_0001_0000_0008,
    0x9900_0003_0000_0400,
    0x9900_0003_0000_0401,
    0x9900_0003_0000_0402,
    0x9900_0003_0000_0403,
    0x9900_0003_0000_0404,
    0x9900_0003_0000_0405,
    0x9900_0003_0000_0500,
    0x9900_0003_0000_0501,
    0x9900_0003_0000_0502,
    0x9900_0003_0000_0503,
];

/// TDX_FEATURES0 of 1.5.05.
pub const FEATURES0: u64 = 0x1F_0FBF;

/// The field SYS.RD names when asked for the first one.
#[must_use]
pub const fn first_sys_field() -> u64 {
    SYS[0]
}

pub(super) fn well_formed(field: u64) -> bool {
    field & RESERVED == 0
}

impl<M: Machine> Module<M> {
    pub(super) fn sys_field(&self, field: u64) -> Res<(u64, u64)> {
        if field == NONE {
            return Err(METADATA_FIRST_FIELD_ID_IN_CONTEXT);
        }
        if !well_formed(field) {
            return Err(METADATA_FIELD_ID_INCORRECT);
        }
        let c = &self.config;
        let (class, code) = (field >> 56 & 0x3F, field & 0xFF_FFFF);
        let value = match (class, code) {
            (0x08, 3) => 5,
            (0x08, 4) => 1,
            (0x08, 5) => 5,
            (0x0A, 8) => FEATURES0,
            (0x19, 0) => c.attributes_fixed0,
            (0x19, 1) => 0,
            (0x19, 2) => c.xfam_fixed0,
            (0x19, 3) => 3,
            (0x09, 0) => 0,
            (0x11, 8) => MAX_TDMRS as u64,
            (0x11, 9) => MAX_RESERVED as u64,
            (0x11, 0x10..=0x12) => 16,
            (0x18, 0) => 4096,
            (0x18, 0x100 | 0x200) => 0x6000,
            (0x19, 4) => cpuid::CHOICE_COUNT as u64,
            (0x19, 8) => 576,
            (0x19, 0x400..=0x411) => cpuid::config_leaf(code - 0x400),
            (0x19, 0x500..=0x523) => self.config_bits(code - 0x500),
            _ => return Err(METADATA_FIELD_ID_INCORRECT),
        };
        let next = SYS
            .iter()
            .position(|f| f & KEY == field & KEY)
            .and_then(|i| SYS.get(i + 1))
            .copied()
            .unwrap_or(NONE);
        Ok((value, next))
    }

    pub(super) fn td_field(&self, td: &Td, field: u64, v1: bool) -> Res<(u64, u64)> {
        if v1 && field == NONE {
            return Err(METADATA_FIRST_FIELD_ID_IN_CONTEXT);
        }
        if !well_formed(field) {
            return Err(METADATA_FIELD_ID_INCORRECT);
        }
        let (class, code) = (field >> 56 & 0x3F, field & 0xFF_FFFF);
        let value = match (class, code) {
            // TDR: FATAL, NUM_TDCX, CHLDCNT, LIFECYCLE_STATE, TDCX_PA, TD_UUID.
            (0x00, 1) => self.tdr_rd(td.tdr, tdr::FATAL),
            (0x00, 2) => self.tdr_rd(td.tdr, tdr::NUM_TDCX),
            (0x00, 4) => self.tdr_rd(td.tdr, tdr::CHLDCNT),
            (0x00, 5) => self.tdr_rd(td.tdr, tdr::LIFECYCLE),
            (0x00, 0x10..=0x18) => match self.tdcx(td, code - 0x10) {
                0 => 0,
                pa => self.config.with_hkid(pa, td.hkid),
            },
            (0x00, 0x20..=0x23) => self.tdr_rd(td.tdr, tdr::UUID + 8 * (code - 0x20)),
            // TDR: HKID, PKG_CONFIG_BITMAP.
            (0x01, 1) => td.hkid.into(),
            (0x01, 2) => self.tdr_rd(td.tdr, tdr::PKG_BITMAP),
            // TDCS: NUM_VCPUS, NUM_ASSOC_VCPUS, OP_STATE, NUM_L2_VMS.
            (0x10, 1) => self.tdcs_rd(td, tdcs::NUM_VCPUS),
            (0x10, 2) => self.tdcs_rd(td, tdcs::NUM_ASSOC),
            (0x10, 4) => self.tdcs_rd(td, tdcs::OP_STATE),
            (0x10, 5) => self.tdcs_rd(td, tdcs::NUM_L2_VMS),
            // TDCS: ATTRIBUTES, XFAM, MAX_VCPUS, GPAW, EPTP, TSC_FREQUENCY,
            // HP_LOCK_TIMEOUT (in microseconds), CONFIG_FLAGS.
            (0x11, 0) => self.tdcs_rd(td, tdcs::ATTRIBUTES),
            (0x11, 1) => self.tdcs_rd(td, tdcs::XFAM),
            (0x11, 2) => self.tdcs_rd(td, tdcs::MAX_VCPUS),
            (0x11, 3) => self.tdcs_rd(td, tdcs::GPAW),
            (0x11, 4) => self.tdcs_rd(td, tdcs::EPTP),
            (0x11, 0xA) => self.tdcs_rd(td, tdcs::TSC_OFFSET),
            (0x11, 0xB) => self.tdcs_rd(td, tdcs::TSC_MULTIPLIER),
            (0x11, 0xC) => self.tdcs_rd(td, tdcs::TSC_FREQUENCY),
            (0x11, 0x11) => {
                let per_us = (self.config.tsc_hz / 1_000_000).max(1);
                self.tdcs_rd(td, tdcs::HP_LOCK_TIMEOUT) / per_us
            }
            // NOTIFY_ENABLES, CONFIG_FLAGS, TD_CTLS, TOPOLOGY_ENUM_CONFIGURED.
            (0x11, 0x10) => self.tdcs_rd(td, tdcs::NOTIFY_ENABLES),
            (0x11, 0x16) => self.tdcs_rd(td, tdcs::CONFIG_FLAGS),
            (0x11, 0x17) => self.tdcs_rd(td, tdcs::TD_CTLS),
            (0x11, 0x19) => self.topology_configured(td).into(),
            // TDCS: TD_EPOCH, REFCOUNT.
            (0x12, 0) => self.tdcs_rd(td, tdcs::EPOCH),
            (0x12, 1 | 2) => self.tdcs_rd(td, tdcs::REFCOUNT) >> (16 * (code - 1)) & 0xFFFF,
            // TDCS: MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG, RTMR.
            (0x13, 0..=5) => self.tdcs_rd(td, tdcs::MRTD + 8 * code),
            (0x13, 0x10..=0x15) => self.tdcs_rd(td, tdcs::MRCONFIGID + 8 * (code - 0x10)),
            (0x13, 0x18..=0x1D) => self.tdcs_rd(td, tdcs::MRCONFIGID + 48 + 8 * (code - 0x18)),
            (0x13, 0x20..=0x25) => self.tdcs_rd(td, tdcs::MRCONFIGID + 96 + 8 * (code - 0x20)),
            (0x13, 0x40..=0x57) => self.tdcs_rd(td, tdcs::RTMR + 8 * (code - 0x40)),
            // CPUID values as the guest sees them.
            (0x14, _) => self.cpuid_value(td, code)?,
            _ => return Err(METADATA_FIELD_ID_INCORRECT),
        };
        Ok((value, NONE))
    }

    pub(super) fn vp_field(&self, td: &Td, tdvpr: u64, field: u64, v1: bool) -> Res<(u64, u64)> {
        if v1 && field == NONE {
            return Err(METADATA_FIRST_FIELD_ID_IN_CONTEXT);
        }
        let (class, code) = (field >> 56 & 0x3F, field & 0xFF_FFFF);
        if !well_formed(field) {
            return Err(METADATA_FIELD_ID_INCORRECT);
        }
        let debug = self.is_debug(td);
        let value = match (class, code) {
            // VMCS: the VPID, made of the KeyID and the number of the VM.
            (0x00, 0) => u64::from(td.hkid) << 2,
            // VCPU_STATE_DETAILS: bit 0 = a virtual interrupt is pending.
            (0x11, 0x100) => return Ok((self.vp_rd(td, tdvpr, tdvps::INTR_PENDING), NONE)),
            (0x10, 0..=3) => self.vp_rd(td, tdvpr, tdvps::GPRS + 8 * code),
            (0x10, 5..=15) => self.vp_rd(td, tdvpr, tdvps::GPRS + 8 * (code - 1)),
            (0x20, 0) => self.vp_rd(td, tdvpr, tdvps::STATE),
            (0x20, 2) => self.vp_rd(td, tdvpr, tdvps::VCPU_INDEX),
            (0x20, 3) => self.vp_rd(td, tdvpr, tdvps::NUM_PAGES),
            (0x20, 4) => self.vp_rd(td, tdvpr, tdvps::ASSOC_LP),
            (0x20, 6) => self.vp_rd(td, tdvpr, tdvps::VCPU_EPOCH),
            _ => return Err(METADATA_FIELD_ID_INCORRECT),
        };
        if debug {
            Ok((value, NONE))
        } else {
            Err(METADATA_FIELD_NOT_READABLE)
        }
    }
}
