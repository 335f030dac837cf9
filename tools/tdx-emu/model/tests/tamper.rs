// SPDX-License-Identifier: GPL-2.0
//! A host that scribbles over control structures may lose its TDs or the
//! module, but cannot lead the model out of memory or make it panic. (The test
//! machine panics on an address that has no memory.)

mod common;

use std::sync::OnceLock;

use common::*;
use proptest::prelude::*;
use tdx_emu_model::regs::leaf;
use tdx_emu_model::{GuestEvent, PhysMem, Regs};

fn base(cipher: bool) -> &'static Vm {
    static BASE: [OnceLock<Vm>; 2] = [OnceLock::new(), OnceLock::new()];
    BASE[usize::from(cipher)].get_or_init(|| {
        let vm = Vm::running_with(cipher);
        vm.block(0x2000);
        vm.track();
        vm.enter(1);
        vm
    })
}

/// A word of a control structure: TDR, first TDCX, S-EPT root and tables,
/// TDVPRs, PAMT.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u64..26).prop_map(|i| TDR + 8 * i),
        (0u64..20).prop_map(|i| TDCX + 8 * i),
        Just(TDCX + 0x3000),
        (0u64..3).prop_map(|i| SEPT + 0x1000 * i),
        (0u64..8).prop_map(|i| SEPT + 0x2000 + 8 * i),
        (0u64..0x50).prop_map(|i| VCPU + 8 * i),
        (0u64..0x50).prop_map(|i| VCPU + 0x1_0000 + 8 * i),
        // PAMT of the control pages, then of the pool, then the upper levels.
        (0u64..0x20).prop_map(|i| 0x2000_3000 + 8 * i),
        (0u64..0x40).prop_map(|i| 0x2000_5000 + 8 * i),
        (0u64..8).prop_map(|i| 0x2000_1000 + 8 * i),
        Just(0x2000_0000),
    ]
}

fn everything(vm: &Vm) {
    let calls = [
        Regs::call3(leaf::MEM_PAGE_RELOCATE, 0x2000, TDR, POOL + 0x8000),
        Regs::call(leaf::MEM_RANGE_BLOCK, 0x1000, TDR),
        Regs::call(leaf::MEM_RANGE_UNBLOCK, 0x1000, TDR),
        Regs::call(leaf::MEM_TRACK, TDR, 0),
        Regs::call3(leaf::MEM_PAGE_AUG, 0x9000, TDR, POOL + 0x9000),
        Regs::call(leaf::MEM_PAGE_REMOVE, 0x4000, TDR),
        Regs::call(leaf::MEM_SEPT_RD, 0x1000, TDR | 1),
        Regs::call3(leaf::MEM_SEPT_ADD, 0x80_0001, TDR, POOL + 0xA000),
        Regs::call(leaf::MEM_SEPT_REMOVE, 0x80_0001, TDR),
        Regs::call(leaf::MEM_RD, 0x1008, TDR),
        Regs::call(leaf::MNG_RD, TDR, 0x9010_0002_0000_0001),
        Regs::call(leaf::VP_CREATE, POOL + 0xB000, TDR),
        Regs::call(leaf::VP_ENTER, VCPU, 0),
        Regs::call(leaf::PHYMEM_PAGE_RDMD, POOL, 0),
        Regs::call(leaf::PHYMEM_PAGE_RECLAIM, POOL, 0),
        Regs::call(leaf::MNG_VPFLUSHDONE, TDR, 0),
    ];
    for regs in calls {
        let mut r = regs;
        let lp = if regs.rax == 0 { 1 } else { 0 };
        if vm.m.in_guest(lp).is_none() {
            vm.m.seamcall(lp, &mut r);
        }
    }
    for lp in [1, 2] {
        for e in [
            GuestEvent::Accept { gpa: 0x5000 },
            GuestEvent::EptViolation {
                gpa: 0x9000,
                qual: 2,
                rip_adv: 0,
            },
            GuestEvent::Write {
                gpa: 0x1000,
                value: 1,
            },
            GuestEvent::Interrupt { rip_adv: 1 },
        ] {
            vm.m.guest_event(lp, e);
        }
    }
    let mut r = Regs::call(leaf::VP_FLUSH, VCPU, 0);
    vm.m.seamcall(1, &mut r);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn tampering(words in proptest::collection::vec((place(), any::<u64>()), 1..4)) {
        let vm = base(true).fork();
        for (pa, value) in words {
            vm.m.machine.write(pa, value);
        }
        everything(&vm);
    }

    /// Without encryption, so that what is written is near what was there.
    #[test]
    fn tampering_in_the_clear(words in proptest::collection::vec((place(), 0u64..64, 0u32..64), 1..4)) {
        let vm = base(false).fork();
        for (pa, value, shift) in words {
            let old = vm.m.machine.read(pa);
            vm.m.machine.write(pa, old ^ value << shift);
        }
        everything(&vm);
    }
}
