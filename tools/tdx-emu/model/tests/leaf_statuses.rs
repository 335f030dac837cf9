// SPDX-License-Identifier: GPL-2.0
//! The table of statuses against what the model returns.

mod common;

use std::collections::HashSet;

use common::{Vm, OUTSIDE, POOL, RESERVED, TDCX, TDR, UNINIT};
use tdx_emu_model::leaf_statuses::{self, TABLE};
use tdx_emu_model::regs::leaf;
use tdx_emu_model::{Outcome, Regs};

/// A small generator, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn of(&mut self, values: &[u64]) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        values[(self.0 % values.len() as u64) as usize]
    }
}

/// Good and bad values of any operand.
fn operands() -> Vec<u64> {
    let mut all = vec![
        TDR,
        TDR,
        TDR,
        TDR,
        TDCX,
        RESERVED,
        OUTSIDE,
        UNINIT,
        TDR | 8,
        1 << 47,
    ];
    for page in 0..10 {
        all.push(page * 0x1000);
        all.push((page * 0x1000) | 1);
        all.push(POOL + 0x4_0000 + page * 0x1000);
    }
    all.extend([POOL, 1 << 20, 1 << 30, 1 << 52, 3]);
    all
}

#[test]
fn what_the_model_returns_is_in_the_table() {
    let values = operands();
    let leaves: Vec<u64> = TABLE.iter().map(|(l, _)| u64::from(*l)).collect();
    let mut dice = Dice(0x5EED_0001);
    let mut seen = HashSet::new();
    for vm in [Vm::building(), Vm::running(), Vm::bare()] {
        for _ in 0..40_000 {
            let rax = dice.of(&leaves) | dice.of(&[0, 0, 0, 0, 0, 0, 0, 1 << 16]);
            let mut regs = Regs {
                rax,
                rcx: dice.of(&values),
                rdx: if dice.of(&[0, 1]) == 0 {
                    TDR
                } else {
                    dice.of(&values)
                },
                r8: dice.of(&values),
                ..Regs::default()
            };
            assert_eq!(vm.m.seamcall(0, &mut regs), Outcome::Done);
            if regs.rax == 0 {
                continue;
            }
            let known = leaf_statuses::of(rax as u16).unwrap();
            assert!(
                known.contains(&regs.rax),
                "leaf {} gives {:#x}",
                rax as u16,
                regs.rax
            );
            seen.insert((rax as u16, regs.rax));
        }
    }
    // What nobody else does at the same time cannot be seen here: locks, TDs
    // that die. The rest of the table is not there for nothing.
    let common = [
        (leaf::MEM_RANGE_BLOCK, 0x0000_0B07_0000_0001),
        (leaf::MEM_PAGE_RELOCATE, 0xC000_0B06_0000_0001),
        (leaf::MEM_PAGE_RELOCATE, 0xC000_0B08_0000_0001),
        (leaf::MEM_PAGE_RELOCATE, 0xC000_0300_0000_0008),
        (leaf::MEM_RANGE_UNBLOCK, 0xC000_0B08_0000_0001),
        (leaf::MEM_TRACK, 0xC000_0300_0000_0001),
        (leaf::PHYMEM_PAGE_WBINVD, 0xC000_0101_0000_0001),
    ];
    for pair in common {
        assert!(seen.contains(&pair), "never seen: {pair:x?}");
    }
    assert!(seen.len() > 20, "only {seen:x?}");
}
