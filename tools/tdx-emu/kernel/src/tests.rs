// SPDX-License-Identifier: GPL-2.0

//! KUnit: the instruction itself, and a TD from its creation to its end.
//!
//! The module that is loaded answers, and is as freshly loaded afterwards.

mod machine;
mod td;

use crate::{
    calllog::LOG,
    emulator,
    faults,
    glue, //
};
use kernel::prelude::*;
use machine::{
    call,
    seamcall,
    Machine, //
};
use td::Td;
use tdx_emu_model::{
    fault::MAX_RULES,
    mem::PAGE,
    program::{
        command,
        result,
        word,
        NO_GPA, //
    },
    regs::{
        leaf,
        op, //
    },
    status::{
        class,
        with_op,
        EXIT_REASON_INTERRUPT,
        GPA_RANGE_NOT_BLOCKED,
        NON_RECOVERABLE_TD_NON_ACCESSIBLE,
        OPERAND_BUSY,
        OPERAND_INVALID,
        SUCCESS,
        SYS_INIT_NOT_PENDING,
        SYS_NOT_READY,
        TD_FATAL,
        TLB_TRACKING_NOT_DONE, //
    },
    PhysMem,
    Regs, //
};

const PAGES: u64 = 64;
const SEED: u64 = 0x5eed;

/// What a number of calls cost, each with its trap.
fn report(what: &str, ticks: u64, calls: u64) {
    let ns = ticks * 1_000_000 / glue::tsc_khz().max(1) / calls;
    pr_info!("{what}: {ns} ns per call\n");
}

/// Moves all pages of the TD to `to`. Returns what RELOCATE said to the first one without BLOCK
/// and without TRACK, and how often a call failed that should not have.
fn move_all(td: &Td, to: u64) -> (u64, u64, u64) {
    let relocate = |i: u64| Regs::call3(leaf::MEM_PAGE_RELOCATE, i << 12, td.tdr, to + (i << 12));
    let timed = |what: &str, regs: &dyn Fn(u64) -> Regs| {
        let start = glue::tsc();
        let failed = (0..PAGES).filter(|&i| call(regs(i)).rax != SUCCESS).count();
        report(what, glue::tsc() - start, PAGES);
        failed as u64
    };
    let not_blocked = call(relocate(0)).rax;
    let mut failed = timed("RANGE.BLOCK", &|i| {
        Regs::call(leaf::MEM_RANGE_BLOCK, i << 12, td.tdr)
    });
    let not_tracked = call(relocate(0)).rax;
    failed += timed("MEM.TRACK", &|_| Regs::call(leaf::MEM_TRACK, td.tdr, 0));
    failed += timed("PAGE.RELOCATE", &relocate);
    (not_blocked, not_tracked, failed)
}

#[kunit_tests(tdxemu)]
mod suite {
    use super::*;

    #[test]
    fn unknown_and_reserved() -> Result {
        let bad = Some(with_op(OPERAND_INVALID, op::RAX));
        let rax = |rax| {
            seamcall(Regs {
                rax,
                ..Regs::default()
            })
            .map(|r| r.rax)
        };
        assert_eq!(rax(1 << 24), bad);
        assert_eq!(rax(1 << 62 | u64::from(leaf::SYS_INIT)), bad);
        assert_eq!(rax(1 << 16 | u64::from(leaf::SYS_INIT)), bad);
        assert_eq!(rax(u64::from(leaf::MEM_TRACK)), Some(SYS_NOT_READY));
        // No P-SEAMLDR is loaded.
        assert_eq!(rax(1 << 63), None);
        Ok(())
    }

    #[test]
    fn registers_survive() -> Result {
        let regs = Regs {
            rax: leaf::SYS_INIT.into(),
            rcx: 1,
            rdx: 2,
            r8: 8,
            r9: 9,
            r10: 10,
            r11: 11,
            r12: 12,
            r13: 13,
            r14: 14,
            r15: 15,
            rdi: 7,
            ..Regs::default()
        };
        let want = Regs {
            rax: with_op(OPERAND_INVALID, op::RCX),
            ..regs
        };
        assert_eq!(seamcall(regs), Some(want));
        Ok(())
    }

    #[test]
    fn outside_of_ram() -> Result {
        let host = &emulator::module().machine;
        let before = host.astray();
        let nowhere = 1 << 51;
        assert_eq!(host.read(nowhere), u64::MAX);
        host.write(nowhere, 1);
        assert_eq!(host.cas(nowhere, 0, 1), Err(u64::MAX));
        assert_eq!(host.astray(), before + 3);
        Ok(())
    }

    #[test]
    fn fault_rules() -> Result {
        assert_eq!(faults::apply("clear"), Ok(()));
        for bad in [
            "TDH.NOTHING status=1",
            "TDH.MEM.TRACK",
            "TDH.MEM.TRACK status=1 delay=1",
            "TDH.MEM.TRACK nth=0 status=1",
            "TDH.MEM.TRACK nth=1 every=2 status=1",
            "TDH.MEM.TRACK random=3/2 status=1",
            "TDH.MEM.TRACK random=1/0 status=1",
            "TDH.MEM.TRACK seed=1 status=1",
            "TDH.MEM.TRACK status=0xff0000000000",
            "TDH.MEM.TRACK delay=100001",
            "99999 status=1",
        ] {
            assert_eq!(faults::apply(bad), Err(EINVAL));
        }
        let rules = "TDH.SYS.INIT nth=2 status=0x8000020200000000 repeat=2\n\
                     TDH.SYS.RD random=1/2 seed=7 delay=1";
        assert_eq!(faults::apply(rules), Ok(()));
        let init = || call(Regs::call(leaf::SYS_INIT, 1, 0)).rax;
        let normal = with_op(OPERAND_INVALID, op::RCX);
        assert_eq!(init(), normal);
        assert_eq!(init(), 0x8000_0202_0000_0000);
        assert_eq!(init(), 0x8000_0202_0000_0000);
        assert_eq!(init(), normal);
        let fired = emulator::module().faults.rules().next();
        assert_eq!(fired.map(|(_, n)| n), Some(2));
        for _ in 2..MAX_RULES {
            assert_eq!(faults::apply("0 status=1"), Ok(()));
        }
        assert_eq!(faults::apply("0 status=1"), Err(ENOSPC));
        assert_eq!(faults::apply("clear"), Ok(()));
        Ok(())
    }

    #[test]
    fn life_of_a_td() -> Result {
        let machine = Machine::start()?;
        assert_eq!(
            call(Regs::call(leaf::SYS_INIT, 0, 0)).rax,
            SYS_INIT_NOT_PENDING
        );
        let td = Td::build(&machine, PAGES)?;
        assert_eq!(emulator::reset(), Err(EBUSY));

        // The guest asks for a command, and carries out what it gets.
        assert_eq!(td.run(command::NONE, 0)?, (0, 0, NO_GPA, result::OK));
        let all = (PAGES, 0, NO_GPA, result::OK);
        assert_eq!(td.run(command::ACCEPT, 0)?, all);
        assert_eq!(td.run(command::FILL, SEED)?, all);

        // The host sees noise, unless there is no cipher.
        let module = emulator::module();
        let seen = module.machine.read(td.pages + 8) == word(SEED, 8);
        assert_eq!(seen, !module.config.cipher);

        let (not_blocked, not_tracked, failed) = move_all(&td, td.spare);
        assert_eq!(not_blocked, with_op(GPA_RANGE_NOT_BLOCKED, op::RCX));
        assert_eq!(not_tracked, with_op(TLB_TRACKING_NOT_DONE, op::RCX));
        assert_eq!(failed, 0);
        let shift = module.config.hkid_shift();
        let wbinvd = Regs::call(leaf::PHYMEM_PAGE_WBINVD, td.pages | td.hkid << shift, 0);
        assert_eq!(call(wbinvd).rax, SUCCESS);

        assert_eq!(td.run(command::VERIFY, SEED)?, all);
        let (pages, wrong, first, _) = td.run(command::VERIFY, SEED + 1)?;
        assert_eq!((pages, wrong, first), (PAGES, PAGES * 512, 0));

        // A spinning guest stays for its burst.
        let start = glue::tsc();
        assert_eq!(td.enter(command::SPIN, 1).rax, EXIT_REASON_INTERRUPT);
        report("VP.ENTER that spins", glue::tsc() - start, 1);
        assert_eq!(td.run(command::NONE, 0)?, (0, 0, NO_GPA, result::OK));

        // A fault is seen by the caller, once.
        assert_eq!(
            faults::apply("TDH.MEM.TRACK status=0x80000200000000a9"),
            Ok(())
        );
        let track = || call(Regs::call(leaf::MEM_TRACK, td.tdr, 0)).rax;
        assert_eq!(track(), with_op(OPERAND_BUSY, op::TD_EPOCH));
        assert_eq!(track(), SUCCESS);
        assert_eq!(faults::apply("clear"), Ok(()));

        LOG.set_on(true);
        td.tear_down(td.spare)?;
        LOG.set_on(false);
        assert_eq!(emulator::reset(), Ok(()));
        assert_eq!(module.sys_view().state, 0);
        Ok(())
    }

    #[test]
    fn stray_write() -> Result {
        let module = emulator::module();
        let machine = Machine::start()?;
        let td = Td::build(&machine, 2)?;
        td.run(command::NONE, 0)?;
        td.run(command::ACCEPT, 0)?;
        td.run(command::FILL, SEED)?;
        let victim = td.pages + PAGE + 0x100;
        if module.machine.tag(victim) == 0 {
            pr_info!("no tag: a stray write would not be found\n");
            td.tear_down(td.pages)?;
            return emulator::reset();
        }
        module.machine.write(victim, 0);
        let end = td.exit(command::VERIFY, SEED).rax;
        assert_eq!(class(end), NON_RECOVERABLE_TD_NON_ACCESSIBLE);
        assert_eq!(module.violation().map(|v| v.pa), Some(victim));
        assert_eq!(td.enter(command::NONE, 0).rax, TD_FATAL);
        td.tear_down(td.pages)?;
        assert_eq!(emulator::reset(), Ok(()));
        Ok(())
    }
}
