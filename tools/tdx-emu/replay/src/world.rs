// SPDX-License-Identifier: GPL-2.0
//! The world every recorded sequence starts from.

use tdx_emu_model::regs::leaf;
use tdx_emu_model::{Config, Module, Outcome, PhysMem, Regs};

use crate::memory::SparseMachine;

const GIB: u64 = 1 << 30;
/// TDMRs: base, and whether it is initialized.
const TDMRS: [(u64, bool); 2] = [(0x4000_0000, true), (0xC000_0000, false)];
const PAMT: u64 = 0x2000_0000;
const TDMR_LIST: u64 = 0x10_0000;
const TDMR_INFO: u64 = 0x10_1000;

/// The model on its machine.
pub struct World {
    /// The module.
    pub module: Module<SparseMachine>,
}

impl Clone for World {
    fn clone(&self) -> Self {
        World {
            module: self.module.fork(self.module.machine.clone()),
        }
    }
}

impl World {
    /// Module READY, one package, 8 logical processors, HKIDs 32 to 63
    /// private, two TDMRs.
    ///
    /// # Panics
    /// The model refuses to be set up.
    #[must_use]
    pub fn initial(cipher: bool) -> Self {
        let config = Config {
            seamrr: (0x3F00_0000, 0x100_0000),
            cipher,
            ..Config::default()
        };
        let machine = SparseMachine::default();
        machine.write(TDMR_LIST, TDMR_INFO);
        machine.write(TDMR_LIST + 8, TDMR_INFO + 512);
        for (i, (base, _)) in TDMRS.iter().enumerate() {
            let info = TDMR_INFO + 512 * i as u64;
            let pamt = PAMT + 0x100_0000 * i as u64;
            let words = [
                *base,
                GIB,
                pamt,
                0x1000,
                pamt + 0x1000,
                0x2000,
                pamt + 0x3000,
                0x40_0000,
            ];
            for (j, w) in words.iter().enumerate() {
                machine.write(info + 8 * j as u64, *w);
            }
            if i == 0 {
                machine.write(info + 64, 0x3000_0000);
                machine.write(info + 72, 0x40_0000);
            }
        }
        let module = Module::new(machine, config);
        let call = |lp, mut regs: Regs| {
            assert_eq!(module.seamcall(lp, &mut regs), Outcome::Done);
            assert_eq!(regs.rax, 0, "{regs:x?}");
            regs
        };
        call(0, Regs::call(leaf::SYS_INIT, 0, 0));
        for lp in 0..8 {
            call(lp, Regs::call(leaf::SYS_LP_INIT, 0, 0));
        }
        call(0, Regs::call3(leaf::SYS_CONFIG, TDMR_LIST, 2, 32));
        call(0, Regs::call(leaf::SYS_KEY_CONFIG, 0, 0));
        for (base, init) in TDMRS {
            while init && call(0, Regs::call(leaf::SYS_TDMR_INIT, base, 0)).rdx < base + GIB {}
        }
        // The recordings start with empty memory.
        for pa in (TDMR_LIST..TDMR_INFO + 1024).step_by(8) {
            module.machine.write(pa, 0);
        }
        World { module }
    }
}
