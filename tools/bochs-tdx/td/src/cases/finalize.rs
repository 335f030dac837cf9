// SPDX-License-Identifier: GPL-2.0
//! A TD is finalized while its pages move and its image is still being added.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use super::counters::total;
use super::{check, equal, no_mismatch, Counters, Options, Outcome, CANNOT_MOVE};
use crate::guest::{self, Command, Field};
use crate::vm::{Memory, Td};

/// Each time the TD is finalized after one more share of the pages was added.
const ROUNDS: u64 = 8;
/// Pages to add in each round.
const PAGES: u64 = 64;
/// Moves that have to happen before and after, in each round.
const MOVES: u64 = 16;
const PATIENCE: Duration = Duration::from_secs(60);

/// What happened in all rounds.
#[derive(Debug, Default)]
struct Seen {
    /// Pages that were moved before and after the TD was finalized.
    moved: [u64; 2],
    /// Moves that ended early.
    refused: u64,
    /// Rounds in which the image was complete, or not, when it was finalized.
    complete: u64,
    incomplete: u64,
    /// Moves that began before the TD was finalized and ended afterwards.
    across: u64,
}

fn wait(what: &str, mut done: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        check(Instant::now() < deadline, || format!("{what}: never"))?;
        thread::yield_now();
    }
    Ok(())
}

fn round(o: &Options, n: u64, seen: &mut Seen) -> io::Result<bool> {
    let mut td = Td::not_finalized(o.provider, o.size, o.vcpus)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(false);
    };
    let all = 0..file.stat()?.size;
    let at = td.test_memory().start;
    let end = at + PAGES * 4096;
    let begin = total("tdx_relocated")?;
    let moved = || -> io::Result<u64> { Ok(total("tdx_relocated")? - begin) };
    let [added, state, refused, across] = [const { AtomicU64::new(0) }; 4];
    const FINALIZED: u64 = 1;
    const STOP: u64 = 2;

    let before = thread::scope(|s| {
        let mover = s.spawn(|| -> io::Result<()> {
            loop {
                let then = state.load(SeqCst);
                if then == STOP {
                    return Ok(());
                }
                match file.move_range(all.clone(), None) {
                    Err(e) if matches!(e.errno(), libc::EAGAIN | libc::EBUSY) => {
                        refused.fetch_add(1, SeqCst);
                    }
                    Err(e) => return Err(io::Error::other(e)),
                    Ok(_) => {}
                }
                if then == 0 && state.load(SeqCst) != 0 {
                    across.fetch_add(1, SeqCst);
                }
            }
        });
        let adder = s.spawn(|| -> io::Result<()> {
            for page in (at..end).step_by(4096) {
                let content = guest::filled(page..page + 4096);
                match td.add_initial(page, &content) {
                    Ok(()) => added.fetch_add(1, SeqCst),
                    // After the TD was finalized there is no more to add.
                    Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Ok(()),
                    Err(e) => return Err(e),
                };
            }
            Ok(())
        });
        let run = || -> io::Result<u64> {
            wait("pages to be added, and to move", || {
                Ok(added.load(SeqCst) >= n * PAGES / (ROUNDS - 1) && moved()? >= MOVES)
            })?;
            td.finalize()?;
            let before = moved()?;
            state.store(FINALIZED, SeqCst);
            wait("pages to move", || Ok(moved()? >= before + MOVES))?;
            Ok(before)
        };
        let before = run();
        state.store(STOP, SeqCst);
        let panicked = |_| io::Error::other("a thread panicked");
        let ends = [adder.join(), mover.join()];
        for end in ends {
            end.map_err(panicked)??;
        }
        before
    })?;
    seen.moved[0] += before;
    seen.moved[1] += moved()? - before;
    seen.refused += refused.into_inner();
    seen.across += across.into_inner();
    let added = added.into_inner();
    if added == PAGES {
        seen.complete += 1;
    } else {
        seen.incomplete += 1;
    }

    let half = at + added * 4096;
    let mut vcpus = td.take_vcpus();
    for v in &mut vcpus {
        v.run()?;
        if added > 0 {
            v.command(Command::Verify, [at, half, 8])?;
        }
        let c = v.control();
        no_mismatch(c)?;
        equal("cells", c.get(Field::Cells), added * 4096 / 8)?;
        equal("exceptions", c.get(Field::Exceptions), 0)?;
    }
    // The others are no part of the TD yet.
    let v = &mut vcpus[0];
    if added < PAGES {
        let accepted = v.command(Command::Accept, [half, end, 0])?;
        equal("TDG.MEM.PAGE.ACCEPT", accepted, 0)?;
        equal("pages there", v.control().get(Field::Already), 0)?;
        v.command(Command::Fill, [half, end, 8])?;
        v.command(Command::Verify, [at, end, 8])?;
        no_mismatch(v.control())?;
    }
    Ok(true)
}

/// KVM_TDX_FINALIZE_VM against moves and KVM_TDX_INIT_MEM_REGION.
pub fn raced(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let mut seen = Seen::default();
    for n in 0..ROUNDS {
        if !round(o, n, &mut seen)? {
            return Ok(Outcome::Skipped(CANNOT_MOVE));
        }
    }
    println!("# {seen:?}");
    counters.push(("finalize_moved_before", seen.moved[0]));
    counters.push(("finalize_moved_after", seen.moved[1]));
    counters.push(("finalize_moves_across", seen.across));
    counters.push(("finalize_moves_refused", seen.refused));
    counters.push(("finalized_incomplete", seen.incomplete));
    check(seen.moved[0] > 0 && seen.moved[1] > 0, || {
        "nothing moved before or after".into()
    })?;
    check(seen.complete > 0 && seen.incomplete > 0, || {
        "the image was always complete, or never".into()
    })?;
    // A move waits for mmu_lock while KVM measures a page or finalizes the TD.
    equal("moves that were refused", seen.refused, 0)?;
    Ok(Outcome::Passed)
}
