// SPDX-License-Identifier: GPL-2.0
//! Calls of the TDX module fail while memory moves.
//!
//! The plan is in force only while nothing but the moves calls the leaves it is
//! about: KVM takes most failures for bugs of its own.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use kvm_ioctls::VcpuExit;
use privmemfd_ioctls::PrivMemFd;

use super::bind;
use super::counters::{self, total};
use super::moves::while_looping;
use super::removal;
use super::witness;
use super::{
    accept, booted, check, equal, no_mismatch, part, Case, Counters, Options, Outcome, CANNOT_MOVE,
    MISMATCHES,
};
use crate::guest::{Command, Field};
use crate::vm::{Exit, Memory};

/// Cases in which every TD lives.
pub const SURVIVED: &[(&str, Case)] = &[
    ("contended_calls", contention),
    ("missing_steps", missing_steps),
    ("refused_pages", refused_pages),
    ("refused_tracking", refused_tracking),
    ("failing_wbinvd", unclean),
    ("exclusive_calls", witness::exclusive_calls),
    ("rebooting_host", witness::rebooting_host),
    ("invalidations", witness::invalidations),
    ("provider_calls", witness::provider_calls),
    ("notified_for_nothing", witness::notified_for_nothing),
    ("fault_counters", totals),
];

/// Cases in which a TD is lost, and KVM has done nothing wrong.
pub const LOST: &[(&str, Case)] = &[
    ("lost_td", lost),
    ("lost_td_with_blocked_pages", lost_with_pages),
    ("lost_module", lost_module),
    ("holes_of_a_lost_td", removal::holes_of_a_lost_td),
    ("slot_of_a_lost_td", removal::slot_of_a_lost_td),
    ("hole_while_rebooting", witness::hole_while_rebooting),
    ("td_after_lost_ones", contention),
    ("fault_counters_with_lost_tds", totals),
];

/// Cases in which KVM takes what the module says for a bug, and says so.
pub const BUGS: &[(&str, Case)] = &[
    ("page_not_removed", removal::page_not_removed),
    ("page_removed_unclean", removal::page_removed_unclean),
    ("page_elsewhere", witness::page_elsewhere),
    ("td_after_bugs", contention),
    ("fault_counters_with_bugs", totals),
];

const PLAN: &str = "/sys/module/tdxfaults/parameters/plan";
/// Pages that the kernel moves at a time.
const BATCH: u64 = 32;
/// Bits of /proc/kpageflags.
const BUDDY: u64 = 1 << 10;
const RESERVED: u64 = 1 << 32;

/// How often the rules for each leaf have fired.
pub(super) struct Fired(Vec<(String, u64)>);

impl Fired {
    fn of(&self, leaf: &str) -> u64 {
        let rules = self.0.iter().filter(|(name, _)| name == leaf);
        rules.map(|(_, n)| n).sum()
    }

    fn all(&self) -> u64 {
        self.0.iter().map(|(_, n)| n).sum()
    }

    /// Every rule has to.
    fn check(&self) -> io::Result<()> {
        for (leaf, n) in &self.0 {
            check(*n > 0, || format!("a rule for {leaf} has not fired"))?;
        }
        Ok(())
    }
}

fn fired() -> io::Result<Fired> {
    let text = fs::read_to_string(PLAN)?;
    let rules = text.lines().filter_map(|line| {
        let (leaf, _) = line.split_once(' ')?;
        let (_, n) = line.rsplit_once("fired=")?;
        Some((leaf.to_owned(), n.parse().ok()?))
    });
    Ok(Fired(rules.collect()))
}

/// Has calls fail by these rules while `f` goes on.
pub(super) fn while_failing<T>(
    rules: &str,
    counters: &mut Counters,
    f: impl FnOnce() -> io::Result<T>,
) -> io::Result<(T, Fired)> {
    fs::write(PLAN, rules)?;
    let result = f();
    let fired = fired();
    fs::write(PLAN, "clear")?;
    let (result, fired) = (result?, fired?);
    fired.check()?;
    add(counters, "injected_faults", fired.all());
    Ok((result, fired))
}

fn add(counters: &mut Counters, name: &'static str, more: u64) {
    match counters.iter_mut().find(|(n, _)| *n == name) {
        Some((_, n)) => *n += more,
        None => counters.push((name, more)),
    }
}

/// What became of the pages of a file.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) moved: u64,
    pub(super) stayed: u64,
}

/// Moves all of a file, batch by batch, where it can be moved.
pub(super) fn move_all(file: &PrivMemFd) -> io::Result<Moved> {
    let size = file.stat()?.size;
    let before = file.pages(0..size)?;
    let mut moved = 0;
    for start in (0..size).step_by(4096 * BATCH as usize) {
        let end = size.min(start + 4096 * BATCH);
        match file.move_range(start..end, None) {
            Ok(n) => moved += n,
            Err(e) if matches!(e.errno(), libc::EBUSY | libc::EAGAIN) => moved += e.moved,
            Err(e) => return Err(io::Error::other(e)),
        }
    }
    let after = file.pages(0..size)?;
    let there = before.iter().flatten().count() as u64;
    let pairs = before.iter().zip(&after);
    let moved_on = |a: &Option<u64>, b: &Option<u64>| a.is_some() && b.is_some() && a != b;
    let elsewhere = pairs.filter(|(a, b)| moved_on(a, b)).count() as u64;
    equal("pages elsewhere", elsewhere, moved)?;
    Ok(Moved {
        moved,
        stayed: there - moved,
    })
}

/// What the module counted meanwhile.
struct Delta {
    rollbacks: u64,
    kept: u64,
    holds: u64,
}

/// Moves all of a TD that verifies its memory while calls fail by `rules`, and
/// once more without them.
fn move_failing(
    o: &Options,
    counters: &mut Counters,
    rules: &str,
) -> io::Result<Option<(Moved, Fired, Delta)>> {
    let (td, vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(None);
    };
    let names = [
        "tdx_rollbacks",
        "tdx_pages_kept",
        "tdx_holds",
        "tdx_tds_lost",
    ];
    let read = || {
        names
            .iter()
            .map(|n| total(n))
            .collect::<io::Result<Vec<_>>>()
    };
    let before = read()?;
    let ((moved, fired), _) = while_looping(o, &td, vcpus, || {
        let (moved, fired) = while_failing(rules, counters, || move_all(file))?;
        let after = move_all(file)?;
        equal("pages that stay without faults", after.stayed, 0)?;
        Ok((moved, fired))
    })?;
    let change: Vec<_> = read()?.iter().zip(&before).map(|(a, b)| a - b).collect();
    equal("TDs lost", change[3], 0)?;
    let delta = Delta {
        rollbacks: change[0],
        kept: change[1],
        holds: change[2],
    };
    println!(
        "# {} calls failed: {} pages moved, {} stayed; {} rollbacks, {} kept, vCPUs held {} times",
        fired.all(),
        moved.moved,
        moved.stayed,
        delta.rollbacks,
        delta.kept,
        delta.holds
    );
    Ok(Some((moved, fired, delta)))
}

/// Locks that somebody else holds, and an epoch that has not ended.
fn contention(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let rules = "TDH.MEM.RANGE.BLOCK random=1/16 seed=21 status=0x8000020000000092\n\
                 TDH.MEM.TRACK random=1/8 status=0x80000200000000a9\n\
                 TDH.MEM.TRACK random=1/4 status=0x8000020100000000\n\
                 TDH.MEM.PAGE.RELOCATE random=1/16 status=0x8000020000000092\n\
                 TDH.PHYMEM.PAGE.WBINVD random=1/16 status=0x8000020000000001";
    let Some((moved, _, delta)) = move_failing(o, counters, rules)? else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    equal("pages that stayed", moved.stayed, 0)?;
    equal("rollbacks", delta.rollbacks, 0)?;
    equal("pages kept", delta.kept, 0)?;
    Ok(Outcome::Passed)
}

/// vCPUs of the last epoch, says the module: they are held, and TRACK repeated.
fn missing_steps(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let rules = "TDH.MEM.PAGE.RELOCATE every=37 status=0xc0000b0800000001";
    let Some((moved, _, delta)) = move_failing(o, counters, rules)? else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    equal("pages that stayed", moved.stayed, 0)?;
    equal("rollbacks", delta.rollbacks, 0)?;
    equal("pages kept", delta.kept, 0)?;
    check(delta.holds > 0, || "vCPUs were not held".into())?;
    Ok(Outcome::Passed)
}

/// Pages that cannot move, or not be blocked; their way back is contended too.
fn refused_pages(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let rules = "TDH.MEM.RANGE.BLOCK random=1/32 seed=22 status=0xc000010000000001\n\
                 TDH.MEM.PAGE.RELOCATE random=1/16 status=0xc000030000000008\n\
                 TDH.MEM.RANGE.UNBLOCK every=3 status=0x8000020000000092\n\
                 TDH.MEM.RANGE.UNBLOCK every=7 status=0xc0000b0800000001";
    let Some((moved, fired, delta)) = move_failing(o, counters, rules)? else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let refused = fired.of("TDH.MEM.PAGE.RELOCATE");
    equal("rollbacks", delta.rollbacks, refused)?;
    let blocked = fired.of("TDH.MEM.RANGE.BLOCK");
    equal("pages that stayed", moved.stayed, refused + blocked)?;
    equal("pages kept", delta.kept, 0)?;
    Ok(Outcome::Passed)
}

/// A whole batch that is given back, as there is no new epoch.
fn refused_tracking(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let rules = "TDH.MEM.TRACK every=9 status=0xc000010000000001";
    let Some((moved, fired, delta)) = move_failing(o, counters, rules)? else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    equal("rollbacks", delta.rollbacks, moved.stayed)?;
    equal("pages kept", delta.kept, 0)?;
    let most = BATCH * fired.of("TDH.MEM.TRACK");
    check((1..=most).contains(&moved.stayed), || {
        format!("{} pages stayed, not 1 to {most}", moved.stayed)
    })?;
    Ok(Outcome::Passed)
}

/// What /proc/kpageflags has about pages.
fn page_flags(pages: &[Option<u64>]) -> io::Result<Vec<u64>> {
    let file = File::open("/proc/kpageflags")?;
    let flags = pages.iter().flatten().map(|pfn| {
        let mut word = [0; 8];
        file.read_exact_at(&mut word, 8 * pfn)?;
        Ok(u64::from_le_bytes(word))
    });
    flags.collect()
}

/// As many of `pages` are kept by the kernel, and none of those are free.
pub(super) fn kept(pages: &[Option<u64>], want: u64) -> io::Result<()> {
    let flags = page_flags(pages)?;
    let reserved = flags.iter().filter(|f| **f & RESERVED != 0);
    equal("pages that are reserved", reserved.count() as u64, want)?;
    let both = RESERVED | BUDDY;
    let free = flags.iter().filter(|f| **f & both == both).count();
    equal("kept pages that are free", free, 0)
}

/// Old pages that the caches may still write to: of no use until the TD is gone.
fn unclean(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let (td, vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    let already = total("tdx_pages_kept")?;
    let rules = "TDH.PHYMEM.PAGE.WBINVD random=1/64 seed=23 status=0xc000010000000001\n\
                 TDH.PHYMEM.PAGE.WBINVD random=1/16 status=0x8000020000000001";
    let ((before, failed), _) = while_looping(o, &td, vcpus, || {
        let before = file.pages(0..o.size)?;
        let (moved, fired) = while_failing(rules, counters, || move_all(file))?;
        equal("pages that stayed", moved.stayed, 0)?;
        // Only the first rule is for good.
        Ok((before, fired.0[0].1))
    })?;
    let there = before.iter().flatten().count();
    println!("# {failed} of {there} pages kept");
    equal("kept", total("tdx_pages_kept")? - already, failed)?;
    kept(&before, failed)?;
    drop(td);
    kept(&before, 0)?;
    Ok(Outcome::Passed)
}

/// The file of a TD that was lost is as good as any other for the next TD.
pub(super) fn reuse(o: &Options, file: PrivMemFd) -> io::Result<()> {
    let size = file.stat()?.size;
    let at = bind::HERE.start..bind::HERE.start + size;
    let file = Memory::Privmemfd(file);
    let (td, mut vcpus) = booted(o)?;
    td.bind_file(5, at.clone(), &file, 0)?;
    bind::use_memory(&mut vcpus[0], &at)?;
    bind::moved(&file, size / 4096)?;
    bind::verify(&mut vcpus[0], &at)
}

/// A TD that is lost while it moves, with vCPUs inside. Counts the pages that
/// cannot even be given back to it.
fn lose(o: &Options, counters: &mut Counters, rules: &str) -> io::Result<Option<u64>> {
    let (td, mut vcpus) = booted(o)?;
    let Memory::Privmemfd(file) = &td.memory else {
        return Ok(None);
    };
    let already = total("tdx_pages_kept")?;
    let lost = total("tdx_tds_lost")?;
    for v in &mut vcpus {
        accept(&td, o, v)?;
        let at = part(&td, o, v.id());
        v.command(Command::Fill, [at.start, at.end, 64])?;
    }
    let threads: Vec<_> = vcpus
        .into_iter()
        .map(|mut v| {
            let at = part(&td, o, v.id());
            thread::spawn(move || {
                // It may be about to fault on a page that leaves the file. KVM says that first, and
                // when it is entered again that the TD is lost.
                let mut met = false;
                let r = v.command_with(Command::Loop, [at.start, at.end, 64], |exit| match exit {
                    Exit::Kvm(VcpuExit::MemoryFault { .. }) if !met => {
                        met = true;
                        Ok(())
                    }
                    other => Err(io::Error::other(format!("{other:?}"))),
                });
                (v, r)
            })
        })
        .collect();
    let before = file.pages(0..o.size)?;
    let moves = while_failing(rules, counters, || move_all(file));
    for id in 0..o.vcpus {
        td.control(id).set(Field::Stop, 1);
    }
    for t in threads {
        let (v, end) = t
            .join()
            .map_err(|_| io::Error::other("a vCPU's thread panicked"))?;
        let errno = end.as_ref().map_err(io::Error::raw_os_error);
        check(errno == Err(Some(libc::EIO)), || {
            format!("vCPU {} of a lost TD: {end:?}", v.id())
        })?;
        no_mismatch(v.control())?;
    }
    moves?;
    equal("TDs lost", total("tdx_tds_lost")? - lost, 1)?;
    let stuck = total("tdx_pages_kept")? - already;
    // The module still moves the others; it does not know that the TD is lost.
    let again = move_all(file)?;
    equal("pages that stay", again.stayed, 0)?;
    kept(&before, stuck)?;
    let there = file.pages(0..o.size)?;
    let left = |a: &Option<u64>, b: &Option<u64>| a.is_some() && b.is_none();
    let gone = before
        .iter()
        .zip(&there)
        .filter(|(a, b)| left(a, b))
        .count();
    equal("pages that have left the file", gone as u64, stuck)?;
    let file = file.try_clone()?;
    drop(td);
    kept(&before, 0)?;
    reuse(o, file)?;
    Ok(Some(stuck))
}

/// All its pages can be taken back as ever.
fn lost(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    let rules = "TDH.MEM.PAGE.RELOCATE nth=5 status=0xe000060400000000";
    let Some(stuck) = lose(o, counters, rules)? else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    equal("pages kept", stuck, 0)?;
    Ok(Outcome::Passed)
}

/// Pages stay blocked: the module has them, and nobody can take them before the TD is gone.
fn lose_pages(o: &Options, counters: &mut Counters, status: &str) -> io::Result<Outcome> {
    let rules = format!(
        "TDH.MEM.PAGE.RELOCATE nth=5 status={status}\n\
         TDH.MEM.RANGE.UNBLOCK nth=1 repeat=0 status={status}"
    );
    let Some(stuck) = lose(o, counters, &rules)? else {
        return Ok(Outcome::Skipped(CANNOT_MOVE));
    };
    check(stuck > 0, || "no page stayed blocked".into())?;
    add(counters, "stuck_pages", stuck);
    Ok(Outcome::Passed)
}

/// The module has stopped the TD for good.
fn lost_with_pages(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    lose_pages(o, counters, "0xe000060400000000")
}

/// The module has been shut down.
fn lost_module(o: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    lose_pages(o, counters, "0xc000050600000000")
}

/// All cases together: no guest saw a wrong cell.
fn totals(_: &Options, counters: &mut Counters) -> io::Result<Outcome> {
    counters.push(("mismatches", MISMATCHES.load(Relaxed)));
    equal("wrong cells", MISMATCHES.load(Relaxed), 0)?;
    counters.extend(counters::read()?);
    Ok(Outcome::Passed)
}
