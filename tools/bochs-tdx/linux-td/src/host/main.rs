// SPDX-License-Identifier: GPL-2.0
//! `td-host`: starts an unmodified VMM with a TD, moves the TD's memory while its firmware
//! runs, while its kernel boots and while it works, then also while SEAMCALLs fail, and says
//! what became of it.

mod disk;
mod guest;
mod moves;
mod vmm;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context};
use clap::{Parser, ValueEnum};
use privmemctl::draw::{bytes, number, picture};
use privmemctl::offline::set_state;
use serde::Serialize;

use crate::disk::{make_disk, DISK_MIB};
use crate::guest::{Guest, Stage};
use crate::moves::{Block, Counters, Memory};
use crate::vmm::{Setup, Vmm};

/// Longest time for the TD's end.
const LAST_ROUND: Duration = Duration::from_secs(120);
/// Longest time without a line.
const BEAT: Duration = Duration::from_secs(2);
/// What there is instead of a verdict if no more than the firmware was to run.
const FIRMWARE: &str = "firmware";
/// And if the first process was not ours: it says nothing of its memory.
const FOREIGN: &str = "foreign";
/// Pages that the module keeps until the TD is gone: none, while the TDX module does what it
/// is asked for, or is busy.
const KEPT: &str = "/sys/kernel/debug/privmemfd/tdx_pages_kept";
const FAULT_PLAN: &str = "/sys/module/tdxfaults/parameters/plan";
/// Busy locks, and pages that the module does not take: the module says no before it has
/// done anything, so each is tried again or given up.
const FAULTS: &str = "TDH.MEM.PAGE.RELOCATE random=1/24 seed=11 status=0x8000020000000092";

/// Run an unmodified Linux as a TD and move its memory.
#[derive(Parser)]
struct Cli {
    /// Program that runs the TD
    #[arg(long, value_enum, default_value_t = Vmm::Qemu)]
    vmm: Vmm,
    /// Folder with qemu/ or alioth, OVMF.fd, vmlinuz and initrd
    #[arg(long, default_value = "/td")]
    parts: PathBuf,
    /// Virtual CPUs
    #[arg(long, default_value_t = 1)]
    vcpus: u32,
    /// MiB of memory
    #[arg(long, default_value_t = 256)]
    mib: u64,
    /// Relocations that have to happen
    #[arg(long, default_value_t = 200_000)]
    target: u64,
    /// More of the TD's kernel command line
    #[arg(long, default_value = "")]
    append: String,
    /// Folder for what comes out of it
    #[arg(long, default_value = "/out")]
    out: PathBuf,
    /// Longest time for a stage that the TD has to reach, in seconds
    #[arg(long, default_value_t = 400)]
    patience: u64,
    /// Leave the memory where it is
    #[arg(long)]
    still: bool,
    /// End after this phase
    #[arg(long, value_enum, default_value_t = Phase::Faults)]
    last: Phase,
    /// The first process is not ours: its output is shown, and the memory moves until the TD ends
    #[arg(long)]
    foreign: bool,
    /// A shell in the TD, on this program's input and output; the memory stays
    #[arg(long)]
    shell: bool,
}

/// Of the TD's life, as far as it can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Phase {
    /// Nothing but the firmware runs, which is ended then
    Firmware,
    /// The kernel boots
    Kernel,
    /// The first process works
    Steady,
    /// So it does while SEAMCALLs fail
    Faults,
}

/// What the host counted; the rest of td.json is in the logs.
#[derive(Serialize, Default)]
struct Report {
    vmm: Vmm,
    vcpus: u32,
    mib: u64,
    seconds: BTreeMap<&'static str, f64>,
    phases: BTreeMap<&'static str, u64>,
    files: usize,
    relocated_pages: u64,
    refused: BTreeMap<&'static str, u64>,
    offlined_blocks: u64,
    /// How often, by block and why.
    blocks_that_stayed: BTreeMap<String, u64>,
    injected_faults: u64,
    guest: BTreeMap<String, u64>,
    lines: Vec<String>,
    verdict: String,
}

/// The show: a TD, its memory, and what was done to it.
struct Show {
    cli: Cli,
    guest: Guest,
    started: Instant,
    memory: Option<Memory>,
    report: Report,
    last: Instant,
    before: Counters,
}

impl Show {
    fn say(&self, text: &str) {
        println!("[{:6.1}] {text}", self.started.elapsed().as_secs_f64());
        // A terminal that is gone leaves nothing to do.
        let _ = std::io::stdout().flush();
    }

    /// A line about the present, if the last one is old enough.
    fn beat(&mut self, what: &str, always: bool) -> anyhow::Result<()> {
        if !always && self.last.elapsed() < BEAT {
            return Ok(());
        }
        self.last = Instant::now();
        let kept = fs::read_to_string(KEPT).unwrap_or_default();
        ensure!(
            matches!(kept.trim(), "" | "0"),
            "{} pages cannot be taken back from the TDX module",
            kept.trim()
        );
        let now = self.counters()?;
        let (done, wrong) = {
            let said = self.guest.said();
            let get = |name: &str| said.counters.get(name).copied().unwrap_or(0);
            (get("bytes"), get("mismatches"))
        };
        let moved = format!(
            "{what:<9} moved {:>9} pages (+{:<7}) of {:>7}",
            number(now.relocated),
            number(now.relocated - self.before.relocated),
            number(now.pages),
        );
        let verified = format!("   guest verified {:>9}   mismatches {wrong}", bytes(done));
        self.say(&(moved + if self.cli.foreign { "" } else { &verified }));
        Ok(())
    }

    fn counters(&mut self) -> anyhow::Result<Counters> {
        let fresh = match &self.memory {
            Some(m) if m.files() > 0 => None,
            _ => Some(Memory::of(self.guest.pid())?),
        };
        if fresh.is_some() {
            self.memory = fresh;
        }
        self.memory
            .as_ref()
            .map_or_else(|| Ok(Counters::default()), Memory::counters)
    }

    /// One round of everything that moves pages. After each step the TD runs alone for
    /// `rest` times as long. Ends early if the TD is at `until` and there is such a stage.
    fn round(&mut self, name: &'static str, rest: u32, until: Option<Stage>) -> anyhow::Result<()> {
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        for step in memory.round()? {
            let began = Instant::now();
            let Some(memory) = &self.memory else {
                break;
            };
            match memory.step(&step)? {
                Some(Block::Offlined) => self.report.offlined_blocks += 1,
                Some(Block::Stayed(index, why)) => {
                    let stayed = format!("memory{index}: {why}");
                    self.say(&format!("{name:<9} stays online: {stayed}"));
                    *self.report.blocks_that_stayed.entry(stayed).or_default() += 1;
                }
                None => {}
            }
            thread::sleep(began.elapsed() * rest);
            self.beat(name, false)?;
            if until.is_some_and(|stage| self.guest.said().stage >= stage) || !self.guest.runs()? {
                break;
            }
        }
        Ok(())
    }

    /// One round once the TD has memory, then nothing, until it is that far.
    fn until(&mut self, name: &'static str, until: Stage) -> anyhow::Result<()> {
        let began = Instant::now();
        self.before = self.counters()?;
        let from = self.before.relocated;
        let enough = self.cli.mib * (1 << 20) / 4096 / 4;
        let mut moved = self.cli.still;
        while self.guest.said().stage < until {
            if !self.guest.runs()? {
                bail!("the TD has ended during {name}");
            }
            if began.elapsed().as_secs() > self.cli.patience {
                let first = self.guest.whereabouts();
                thread::sleep(BEAT);
                let text = first + "--- a moment later\n" + &self.guest.whereabouts();
                fs::write(self.cli.out.join("stuck.log"), text)?;
                bail!("{name} has not ended within {} s", self.cli.patience);
            }
            if !moved && self.counters()?.pages > enough {
                self.round(name, 1, Some(until))?;
                moved = true;
            }
            thread::sleep(Duration::from_millis(100));
            self.beat(name, false)?;
        }
        self.end_of(name, from)
    }

    /// Rounds once the firmware has accepted memory.
    fn only_firmware(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.counters()?.pages <= self.cli.mib * (1 << 20) / 4096 / 4 {
            ensure!(self.guest.runs()?, "the VMM has ended");
            ensure!(
                began.elapsed().as_secs() < self.cli.patience,
                "the firmware has not accepted its memory"
            );
            thread::sleep(Duration::from_millis(100));
        }
        if !self.cli.still {
            self.rounds("firmware", self.cli.target)?;
            self.picture()?;
        }
        self.counts()
    }

    /// Rounds under the TD's work, at least one, until so many pages have moved.
    fn rounds(&mut self, name: &'static str, goal: u64) -> anyhow::Result<()> {
        self.before = self.counters()?;
        let from = self.before.relocated;
        loop {
            self.round(name, 0, None)?;
            if !self.guest.runs()? || self.guest.said().stage == Stage::Done {
                bail!("the TD has ended during {name}");
            }
            if self.counters()?.relocated >= goal {
                break;
            }
        }
        self.end_of(name, from)
    }

    /// Rounds until the TD ends by itself.
    fn until_it_ends(&mut self, name: &'static str) -> anyhow::Result<()> {
        let began = Instant::now();
        self.before = self.counters()?;
        let from = self.before.relocated;
        while self.guest.runs()? {
            let limit = self.cli.patience;
            ensure!(
                began.elapsed().as_secs() < limit,
                "the TD has not ended by itself within {limit} s"
            );
            if self.cli.still {
                // Nothing to do but to look again whether it has ended.
                thread::sleep(BEAT);
            } else {
                self.round(name, 1, None)?;
            }
        }
        self.end_of(name, from)
    }

    fn end_of(&mut self, name: &'static str, from: u64) -> anyhow::Result<()> {
        self.beat(name, true)?;
        let now = self.counters()?;
        *self.report.phases.entry(name).or_default() += now.relocated - from;
        Ok(())
    }

    fn picture(&mut self) -> anyhow::Result<()> {
        self.counters()?;
        if let Some(memory) = &self.memory {
            let (map, census) = memory.census()?;
            print!("{}", picture(&map, &census, None));
        }
        Ok(())
    }

    fn play(&mut self) -> anyhow::Result<()> {
        if self.cli.last == Phase::Firmware {
            return self.only_firmware();
        }
        self.until("firmware", Stage::Kernel)?;
        self.say("the firmware has started the kernel; the TD's pages by memory block:");
        self.picture()?;
        if self.cli.foreign {
            self.until_it_ends("guest")?;
            return self.counts();
        }
        self.until("kernel", Stage::Working)?;
        self.say("the kernel has started its first process, which says of itself:");
        for line in self
            .guest
            .said()
            .lines
            .iter()
            .filter(|l| l.starts_with("report "))
        {
            println!("         {line}");
        }
        self.picture()?;
        if !self.cli.still && self.cli.last >= Phase::Steady {
            self.rounds("steady", self.cli.target)?;
            self.picture()?;
        }
        if !self.cli.still && self.cli.last >= Phase::Faults && Path::new(FAULT_PLAN).exists() {
            fs::write(FAULT_PLAN, FAULTS).context("the fault plan is refused")?;
            let result = self.rounds("faults", self.cli.target);
            let plan = fs::read_to_string(FAULT_PLAN)?;
            fs::write(FAULT_PLAN, "clear")?;
            result?;
            self.report.injected_faults = plan
                .split_whitespace()
                .filter_map(|w| w.strip_prefix("fired=")?.parse::<u64>().ok())
                .sum();
        }
        self.counts()
    }

    fn counts(&mut self) -> anyhow::Result<()> {
        let now = self.counters()?;
        self.report.relocated_pages = now.relocated;
        self.report.refused = now.refused;
        self.report.files = self.memory.as_ref().map_or(0, Memory::files);
        Ok(())
    }

    fn end(mut self, played: anyhow::Result<()>) -> anyhow::Result<bool> {
        if let Err(e) = &played {
            self.say(&format!("PROBLEM: {e:#}"));
            // What there is.
            let _ = self.counts();
        }
        self.memory = None;
        // Who does not work yet is not there to be told.
        let works = self.guest.said().stage >= Stage::Working;
        let mut good = played.is_ok();
        let ended = if self.cli.last == Phase::Firmware {
            self.guest.kill().map(|()| None)
        } else {
            let limit = if works { LAST_ROUND } else { BEAT };
            self.guest.stop(limit).map(Some)
        };
        {
            let said = self.guest.said();
            self.report.seconds = said.seconds.clone();
            self.report.guest = said.counters.clone();
            self.report.lines = said.lines.clone();
            self.report.verdict = match &said.verdict {
                Some(verdict) => verdict.clone(),
                None if matches!(ended, Ok(None)) => FIRMWARE.into(),
                None if self.cli.foreign => FOREIGN.into(),
                None => "none".into(),
            };
        }
        match ended {
            Ok(status) if status.is_none_or(|s| s.success()) => {}
            Ok(status) => {
                let status = status.unwrap_or_default();
                self.say(&format!("PROBLEM: the VMM: {status}"));
                good = false;
            }
            Err(e) => {
                self.say(&format!("PROBLEM: {e:#}"));
                good = false;
            }
        }
        good &= ["good", FIRMWARE, FOREIGN].contains(&self.report.verdict.as_str());
        let moved = number(self.report.relocated_pages);
        let guest = &self.report.guest;
        let counter = |name| guest.get(name).copied().unwrap_or(0);
        self.say(&if self.report.verdict == FOREIGN {
            format!("{moved} pages moved, the TD has ended")
        } else {
            format!(
                "{moved} pages moved, {} verified by the TD, {} mismatches; it says: {}",
                bytes(counter("bytes")),
                counter("mismatches"),
                self.report.verdict,
            )
        });
        write(&self.report, &self.cli.out)?;
        Ok(good)
    }
}

/// A shell in the TD. The answer is its exit status; 0 if the TD was switched off.
fn shell(setup: &Setup, out: &Path) -> anyhow::Result<u8> {
    File::create(setup.disk)
        .and_then(|disk| disk.set_len(DISK_MIB << 20))
        .context("cannot make the TD's disk")?;
    let status = setup.shell()?;
    let report = Report {
        vmm: setup.vmm,
        vcpus: setup.vcpus,
        mib: setup.mib,
        verdict: "shell".into(),
        ..Report::default()
    };
    write(&report, out)?;
    Ok(status.unwrap_or(0))
}

fn write(report: &Report, out: &Path) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(report)?;
    fs::write(out.join("host.json"), json + "\n").context("cannot write the report")
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let disk = Path::new("/tmp/td-disk");
    let log = cli.out.join("guest.log");
    let append = format!(
        "console=ttyS0,115200 earlyprintk=ttyS0 panic=-1 tsc=reliable swiotlb=4096 {}",
        cli.append
    );
    let append = if cli.shell {
        format!("{append} quiet td.shell")
    } else {
        append
    };
    let setup = Setup {
        vmm: cli.vmm,
        parts: &cli.parts,
        vcpus: cli.vcpus,
        mib: cli.mib,
        append: &append,
        disk,
        log: &log,
    };
    if cli.shell {
        return shell(&setup, &cli.out);
    }
    make_disk(disk)?;
    let guest = Guest::start(&setup, cli.foreign)?;
    let report = Report {
        vmm: cli.vmm,
        vcpus: cli.vcpus,
        mib: cli.mib,
        ..Report::default()
    };
    let mut show = Show {
        cli,
        guest,
        started: Instant::now(),
        memory: None,
        report,
        last: Instant::now(),
        before: Counters::default(),
    };
    let played = show.play();
    Ok(u8::from(!show.end(played)?))
}

fn main() -> ExitCode {
    // What take_offline() starts.
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, command, index, state] = &arguments[..] {
        if command == "set-state" {
            return index
                .parse()
                .map_or(ExitCode::FAILURE, |index| set_state(index, state).into());
        }
    }
    match run(Cli::parse()) {
        Ok(status) => status.into(),
        Err(e) => {
            eprintln!("td-host: {e:#}");
            ExitCode::FAILURE
        }
    }
}
