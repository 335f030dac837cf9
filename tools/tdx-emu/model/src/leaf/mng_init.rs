// SPDX-License-Identifier: GPL-2.0
//! TDH.MNG.INIT: reads TD_PARAMS.

use super::msr::{arch_capabilities, index::ARCH_CAPABILITIES as IA32_ARCH_CAPABILITIES};
use crate::locks::Mode;
use crate::mem::Machine;
use crate::module::Module;
use crate::opstate::op_state;
use crate::regs::{leaf, op, Regs};
use crate::sept::HPA;
use crate::status::{with_op, Res, OPERAND_INVALID, SUCCESS, TDCS_NOT_ALLOCATED};
use crate::td::{td_ctls, tdcs, tdr, Td, MIN_TDCX, TDCX_SEPT_ROOT};

/// Offsets in TD_PARAMS.
pub(crate) mod params {
    pub const SIZE: u64 = 1024;
    pub const ATTRIBUTES: u64 = 0;
    pub const XFAM: u64 = 8;
    /// max_vcpus (16 bits), num_l2_vms (8), msr_config_ctls (8), reserved (32).
    pub const COUNTS: u64 = 16;
    pub const EPTP_CONTROLS: u64 = 24;
    pub const CONFIG_FLAGS: u64 = 32;
    /// tsc_frequency (16 bits), then reserved to 80.
    pub const TSC_FREQUENCY: u64 = 40;
    pub const RESERVED_1_END: u64 = 80;
    /// MRCONFIGID, MROWNER, MROWNERCONFIG.
    pub const MRCONFIGID: u64 = 80;
    pub const ARCH_CAPABILITIES: u64 = 224;
    pub const RESERVED_2: u64 = 232;
    pub const RESERVED_2_END: u64 = 256;
    pub const CPUID: u64 = 256;
    /// After 18 CPUID values.
    pub const RESERVED_3: u64 = 256 + 18 * 16;
}

const ATTR_DEBUG: u64 = 1;
const ATTR_SEPT_VE_DISABLE: u64 = 1 << 28;
const ATTR_MIGRATABLE: u64 = 1 << 29;
const ATTR_PERFMON: u64 = 1 << 63;
const MAX_VCPUS_PER_TD: u64 = 576;
/// The bits of IA32_ARCH_CAPABILITIES that TD_PARAMS can choose.
const ARCH_CAPABILITIES_CONFIG: u64 = 1 << 4 | 1 << 19 | 1 << 20 | 1 << 24;

fn xfam_ok(x: u64, fixed0: u64) -> bool {
    let bit = |n: u32| x >> n & 1 != 0;
    x & !fixed0 == 0
        && x & 3 == 3
        && (bit(2) || !bit(5))
        && bit(5) == bit(6)
        && bit(5) == bit(7)
        && bit(11) == bit(12)
        && bit(17) == bit(18)
}

impl<M: Machine> Module<M> {
    pub(crate) fn mng_init(&self, regs: &mut Regs, lp: usize) -> Res<u64> {
        let (tdr, pa) = (regs.rcx, regs.rdx);
        regs.rcx = 0;
        let _tdr = self.tdr_explicit(tdr, op::RCX, Mode::Exclusive)?;
        let (td, _) = self.td_open(tdr, leaf::MNG_INIT, false)?;
        if !self.shared_ok(pa, params::SIZE) {
            return Err(with_op(OPERAND_INVALID, op::RDX));
        }
        self.tdcs_wr(&td, tdcs::NUM_VCPUS, 0);
        self.tdcs_wr(&td, tdcs::NUM_ASSOC, 0);
        self.tdcs_wr(&td, tdcs::EPOCH, 1);
        self.tdcs_wr(&td, tdcs::REFCOUNT, 0);
        // One second.
        self.tdcs_wr(&td, tdcs::HP_LOCK_TIMEOUT, self.config.tsc_hz);
        self.td_params(&td, pa & !self.config.hkid_mask(), &mut regs.rcx)?;
        self.measure_start(&td);
        // The TD's clock starts now.
        let tsc = self.machine.tsc(lp);
        self.tdcs_wr(&td, tdcs::TSC_OFFSET, tsc.wrapping_neg());
        self.tdcs_wr(&td, tdcs::OP_STATE, op_state::INITIALIZED);
        Ok(SUCCESS)
    }

    /// `culprit` becomes the CPUID leaf that is refused, if one is.
    fn td_params(&self, td: &Td, pa: u64, culprit: &mut u64) -> Res {
        let invalid = |operand| Err(with_op(OPERAND_INVALID, operand));
        let word = |off: u64| self.machine.read(pa + off);
        let zero = |from: u64, to: u64| (from..to).step_by(8).all(|o| word(o) == 0);

        let attr = word(params::ATTRIBUTES);
        if attr & !self.config.attributes_fixed0 != 0
            || attr & ATTR_MIGRATABLE != 0 && attr & (ATTR_DEBUG | ATTR_PERFMON) != 0
        {
            return invalid(op::ATTRIBUTES);
        }
        self.tdcs_wr(td, tdcs::ATTRIBUTES, attr);
        let no_ve = attr & ATTR_SEPT_VE_DISABLE != 0;
        let ctls = if no_ve {
            td_ctls::PENDING_VE_DISABLE
        } else {
            0
        };
        self.tdcs_wr(td, tdcs::TD_CTLS, ctls);
        let xfam = word(params::XFAM);
        if !xfam_ok(xfam, self.config.xfam_fixed0) {
            return invalid(op::XFAM);
        }
        self.tdcs_wr(td, tdcs::XFAM, xfam);
        let counts = word(params::COUNTS);
        let (max_vcpus, l2_vms) = (counts & 0xFFFF, counts >> 16 & 0xFF);
        if !(1..=MAX_VCPUS_PER_TD).contains(&max_vcpus) {
            return invalid(op::MAX_VCPUS);
        }
        self.tdcs_wr(td, tdcs::MAX_VCPUS, max_vcpus);
        if l2_vms > 3 {
            return invalid(op::NUM_L2_VMS);
        }
        if self.tdr_rd(td.tdr, tdr::NUM_TDCX) < MIN_TDCX + l2_vms {
            return Err(TDCS_NOT_ALLOCATED);
        }
        self.tdcs_wr(td, tdcs::NUM_L2_VMS, l2_vms);
        if counts >> 32 != 0 {
            return invalid(op::RDX);
        }
        let flags = word(params::CONFIG_FLAGS);
        if flags & !self.config.config_flags_fixed0 != 0 {
            return invalid(op::EXEC_CONTROLS);
        }
        let gpaw = flags & 1;
        let eptp = word(params::EPTP_CONTROLS);
        let pwl = eptp >> 3 & 7;
        let max = if self.config.pml5 { 4 } else { 3 };
        if eptp & 7 != 6
            || eptp & !0x3F != 0
            || !(3..=max).contains(&pwl)
            || pwl == 4 && self.config.max_pa < 49
            || gpaw != 0 && pwl < 4
        {
            return invalid(op::EPTP_CONTROLS);
        }
        let root = self.tdcx(td, TDCX_SEPT_ROOT) & HPA & !self.config.hkid_mask();
        self.tdcs_wr(td, tdcs::EPTP, eptp | root);
        self.tdcs_wr(td, tdcs::GPAW, gpaw);
        self.tdcs_wr(td, tdcs::CONFIG_FLAGS, flags);
        let tsc = word(params::TSC_FREQUENCY) & 0xFFFF;
        if !(4..=400).contains(&tsc) {
            return invalid(op::TSC_FREQUENCY);
        }
        self.tdcs_wr(td, tdcs::TSC_FREQUENCY, tsc);
        let ratio = fixed_point_48(tsc * 25_000_000, self.config.tsc_hz);
        self.tdcs_wr(td, tdcs::TSC_MULTIPLIER, ratio);
        if word(params::TSC_FREQUENCY) >> 16 != 0
            || !zero(params::TSC_FREQUENCY + 8, params::RESERVED_1_END)
            || counts >> 25 & 0x7F != 0
            || !zero(params::RESERVED_2, params::RESERVED_2_END)
        {
            return invalid(op::RDX);
        }
        for off in (0..tdcs::MRCONFIG_END - tdcs::MRCONFIGID).step_by(8) {
            self.tdcs_wr(td, tdcs::MRCONFIGID + off, word(params::MRCONFIGID + off));
        }
        self.cpuid_init(td, |i| word(params::CPUID + 8 * i as u64))
            .map_err(|(status, leaf)| {
                *culprit = leaf;
                status
            })?;
        if !zero(params::RESERVED_3, params::SIZE) {
            return invalid(op::RDX);
        }
        // Configured IA32_ARCH_CAPABILITIES need their control bit.
        let caps = word(params::ARCH_CAPABILITIES);
        if counts >> 24 & 1 == 0 && caps != 0 || caps & !ARCH_CAPABILITIES_CONFIG != 0 {
            return invalid(op::ARCH_CAPABILITIES);
        }
        let native = self.machine.msr(0, IA32_ARCH_CAPABILITIES);
        let tsx = self.td_features(td).tsx;
        self.tdcs_wr(
            td,
            tdcs::ARCH_CAPABILITIES,
            arch_capabilities(native, caps, tsx),
        );
        if attr & ATTR_MIGRATABLE != 0 && l2_vms != 0 {
            return invalid(op::RDX);
        }
        Ok(())
    }
}

/// `a / b` with 48 bits after the point. Both are below 2^63. By hand, since a
/// kernel has no division of 128-bit numbers.
const fn fixed_point_48(a: u64, b: u64) -> u64 {
    let b = if b == 0 { 1 } else { b };
    let (mut quotient, mut rest) = (a / b, a % b);
    let mut bit = 0;
    while bit < 48 {
        rest <<= 1;
        quotient <<= 1;
        if rest >= b {
            rest -= b;
            quotient |= 1;
        }
        bit += 1;
    }
    quotient
}

#[cfg(test)]
mod tests {
    use super::fixed_point_48;

    #[test]
    fn a_ratio_is_what_a_wider_division_gives() {
        for (a, b) in [
            (100_000_000, 2_000_000_000),
            (10_000_000_000, 3),
            (7, 7),
            (1, 0),
        ] {
            let wide = (u128::from(a) << 48) / u128::from(b.max(1u64));
            assert_eq!(fixed_point_48(a, b), wide as u64, "{a} / {b}");
        }
    }
}
