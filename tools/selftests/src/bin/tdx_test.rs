// SPDX-License-Identifier: GPL-2.0
//! Memory of TDs moves by the TDX module, with its content. The guest checks the
//! content, and what the host may see of a debuggable TD.

use std::process::ExitCode;
use std::sync::Arc;

use selftests::cases;
use selftests::fixtures::{wait_for, PAGE, PATIENCE};
use selftests::ktap::{self, note};
use selftests::tdx::emulator::{clear_counters, Counters};
use selftests::tdx::{Crew, Tdx};
use tdhost::{word, Command, SeptState};

const PAGES: u64 = 1024;
/// Most pages that are moved with one TRACK and one kick.
const BATCH: u64 = 32;

fn a_td_runs() {
    let tdx = Tdx::empty(PAGES, 1);
    let half = tdx.all().end / 2;
    tdx.td.add(0..half, tdx.seed).unwrap();
    tdx.td.aug(half..tdx.all().end).unwrap();
    assert_eq!(tdx.in_state(SeptState::Mapped), PAGES / 2);
    assert_eq!(tdx.in_state(SeptState::Pending), PAGES / 2);
    tdx.td.finalize().unwrap();
    tdx.ok(0, Command::Verify(tdx.seed), 0..half);
    tdx.ok(0, Command::Accept, half..tdx.all().end);
    assert_eq!(tdx.td.read(half).unwrap(), 0, "accepted memory is zero");
    tdx.ok(0, Command::Fill(tdx.seed), half..tdx.all().end);
    tdx.verify();
    for gpa in [0, 8, half - 8, half, tdx.all().end - 8] {
        assert_eq!(tdx.td.read(gpa).unwrap(), word(tdx.seed, gpa), "{gpa:#x}");
    }
}

fn content_is_kept_by_move() {
    let tdx = Tdx::running(PAGES, 1);
    for _ in 0..3 {
        let before = tdx.fd.pages(tdx.all()).unwrap();
        assert_eq!(tdx.move_all(), PAGES);
        let after = tdx.fd.pages(tdx.all()).unwrap();
        assert!(before.iter().zip(&after).all(|(a, b)| a != b));
        tdx.verify();
    }
    assert_eq!(tdx.td.stat().unwrap().moved, 3 * PAGES);
}

fn one_relocate_per_page() {
    let tdx = Tdx::running(PAGES, 1);
    let before = tdx.td.stat().unwrap();
    clear_counters();
    assert_eq!(tdx.move_all(), PAGES);
    let c = Counters::read();
    let kicks = tdx.td.stat().unwrap().kicks - before.kicks;
    let batches = PAGES.div_ceil(BATCH);
    assert_eq!(c.calls("TDH.MEM.PAGE.RELOCATE"), PAGES);
    assert_eq!(c.calls("TDH.MEM.RANGE.BLOCK"), PAGES);
    assert_eq!(c.calls("TDH.PHYMEM.PAGE.WBINVD"), PAGES);
    assert_eq!(c.calls("TDH.MEM.RANGE.UNBLOCK"), 0);
    assert!(
        c.calls("TDH.MEM.TRACK") <= batches,
        "{}",
        c.calls("TDH.MEM.TRACK")
    );
    assert!(kicks <= batches, "{kicks} kicks");
    tdx.verify();
}

fn a_running_td_keeps_every_byte() {
    let tdx = Arc::new(Tdx::running(PAGES, 2));
    let crew = Crew::start(&tdx);
    let mut moved = 0;
    for _ in 0..5 {
        moved += tdx.move_all();
        let goal = crew.rounds() + 2;
        assert!(
            wait_for(PATIENCE, || crew.rounds() >= goal || crew.any_left()),
            "the guest hangs"
        );
    }
    let rounds = crew.end();
    tdx.verify();
    note(format!(
        "{moved} pages moved, {rounds} rounds, {:?}",
        tdx.td.stat().unwrap()
    ));
    assert_eq!(moved, 5 * PAGES);
}

fn main() -> ExitCode {
    let _ = PAGE;
    ktap::main(cases![
        "a TD runs on a privmemfd" => a_td_runs,
        "MOVE keeps a TD's content" => content_is_kept_by_move,
        "one RELOCATE for a page, one TRACK and kick for a batch" => one_relocate_per_page,
        "a running TD keeps every byte over MOVE" => a_running_td_keeps_every_byte,
    ])
}
