// SPDX-License-Identifier: GPL-2.0
//! `privmemfd-demo`: a guest writes and verifies its private memory without
//! pause while the host compacts memory, takes memory blocks offline,
//! allocates contiguous memory and moves pages between nodes. On request a
//! second guest does the same with memory that a TD owns. Ends with a verdict.

mod phases;
mod report;
mod stage;
mod tdx;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use demo::hog;
use privmemctl::draw::{bytes, number};
use privmemfd_ioctls::Refusal;

use crate::phases::offline::Blocks;
use crate::phases::{compaction, contiguous, offline, on_request};
use crate::report::{Act, Phase, Report, TdxAct};
use crate::stage::Stage;

/// Run a guest on private memory while the host moves it.
///
/// Needs root, a Linux kernel with the patched kvm.ko and privmemfd.ko loaded,
/// and memory blocks in ZONE_MOVABLE (boot with movablecore=). Takes memory
/// offline and fills nodes: meant for a test VM, not for a machine in use.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// MiB of private memory
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u64).range(64..=3072))]
    mib: u64,
    /// Virtual CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=16))]
    vcpus: u64,
    /// Bytes from one verified 8-byte cell to the next; 8 verifies every byte
    #[arg(long, default_value_t = 8, value_parser = parse_stride)]
    stride: u64,
    /// Relocations that must happen
    #[arg(long, default_value_t = 20_000)]
    target: u64,
    /// Most rounds of taking memory blocks offline
    #[arg(long, default_value_t = 12)]
    rounds: u32,
    /// Add an act in which a TD owns the memory and the TDX module moves it.
    /// Needs tdxemu.ko (cipher=0) and tdhost.ko
    #[arg(long)]
    tdx: bool,
    /// Write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// No live line, even on a terminal
    #[arg(long)]
    plain: bool,
    #[command(subcommand)]
    helper: Option<Helper>,
}

#[derive(Subcommand)]
enum Helper {
    /// Change the state of a memory block (used by the demonstration itself)
    #[command(hide = true)]
    SetState {
        /// Number of the block
        index: String,
        /// What to write
        state: String,
    },
    /// Take memory until standard input ends (used by the demonstration itself)
    #[command(hide = true)]
    Hog {
        /// How
        #[command(subcommand)]
        plan: hog::Plan,
    },
}

fn parse_stride(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(n) if (8..=4096).contains(&n) && u64::is_power_of_two(n) => Ok(n),
        _ => Err("a power of two from 8 to 4096".into()),
    }
}

/// The first act: the host copies.
fn software(cli: &Cli) -> anyhow::Result<Act> {
    let size = cli.mib << 20;
    println!(
        "privmemfd: a guest with {} vCPUs and {} MiB of private memory ({} pages)",
        cli.vcpus,
        cli.mib,
        number(size >> 12)
    );
    let (stage, _) = Stage::open(size, cli.vcpus, cli.stride, cli.plain, false)?;
    println!("the guest wrote all of it and now verifies and rewrites it without pause");

    let mut blocks = Blocks::default();
    let phases = vec![
        compact(&stage)?,
        take_offline(&stage, cli, &mut blocks)?,
        stage.phase(
            "cma",
            "contiguous memory is allocated over guest pages",
            |log| contiguous::contiguous(&stage, log),
        )?,
        move_on_request(&stage)?,
    ];
    close(stage, cli, "software", blocks, phases)
}

/// The second act: the TDX module moves the pages of a TD.
fn tdx(cli: &Cli) -> anyhow::Result<TdxAct> {
    let size = 64 << 20;
    println!(
        "\n\nprivmemfd: a guest with {} vCPUs, its {} pages are a TD's on the emulated TDX module",
        cli.vcpus,
        number(size >> 12)
    );
    let (stage, companion) = Stage::open(size, cli.vcpus, cli.stride, cli.plain, true)?;
    let mut companion = companion.expect("it was asked for");
    println!("each page moves by BLOCK, TRACK, kick, RELOCATE, WBINVD: five steps, four SEAMCALLs");

    let mut blocks = Blocks::default();
    let phases = vec![
        compact(&stage)?,
        take_offline(&stage, cli, &mut blocks)?,
        move_on_request(&stage)?,
        stage.phase(
            "faults",
            "the same while SEAMCALLs fail now and then",
            |log| companion.sabotage(|| on_request(&stage, log)),
        )?,
    ];
    let act = close(stage, cli, "tdx", blocks, phases)?;
    let counters = companion.finish()?;
    for (leaf, calls) in &counters.seamcalls {
        println!("  {leaf:<24} {:>9}", number(*calls));
    }
    Ok(TdxAct { act, counters })
}

fn compact(stage: &Stage) -> anyhow::Result<Phase> {
    stage.phase(
        "compact",
        "fragmented memory is compacted until huge pages can be had",
        |log| compaction::compact(stage, log),
    )
}

fn take_offline(stage: &Stage, cli: &Cli, blocks: &mut Blocks) -> anyhow::Result<Phase> {
    stage.phase(
        "offline",
        "movable memory blocks with guest pages go offline and come back",
        |log| {
            *blocks = offline::offline(stage, cli.rounds, cli.target, log)?;
            Ok(())
        },
    )
}

fn move_on_request(stage: &Stage) -> anyhow::Result<Phase> {
    stage.phase(
        "move",
        "an administrator moves the guest to the other node and back",
        |log| on_request(stage, log),
    )
}

fn close(
    stage: Stage,
    cli: &Cli,
    backend: &'static str,
    blocks: Blocks,
    phases: Vec<Phase>,
) -> anyhow::Result<Act> {
    let guest_pages = stage.size >> 12;
    let (fd, progress) = stage.close()?;
    println!("\nthe guest stopped after verifying everything once more");
    if let Some(first) = &progress.first {
        println!("  first wrong cell: {first:x?}");
    }
    let stat = fd.stat()?;
    let act = Act {
        backend,
        guest_pages,
        relocated_pages: stat.relocated,
        relocated_bytes: stat.relocated << 12,
        target: cli.target,
        verified_bytes: progress.verified,
        mismatches: progress.mismatches,
        offlined_blocks: blocks.offlined,
        refused_blocks: blocks.refused,
        refused: Refusal::ALL
            .into_iter()
            .map(|r| (r.name(), stat.refused_for(r)))
            .filter(|(_, count)| *count > 0)
            .collect(),
        phases,
    };
    println!("\n  pages moved      {:>12}", number(act.relocated_pages));
    println!("  content moved    {:>12}", bytes(act.relocated_bytes));
    println!(
        "  moves refused    {:>12}",
        number(act.refused.values().sum())
    );
    for (why, count) in &act.refused {
        println!("    {why:<14} {:>12}", number(*count));
    }
    println!("  blocks offlined  {:>12}", number(act.offlined_blocks));
    println!("  blocks refused   {:>12}", act.refused_blocks.len());
    for (index, why) in &act.refused_blocks {
        println!("    memory{index}: {why}");
    }
    println!("  guest verified   {:>12}", bytes(act.verified_bytes));
    println!("  mismatches       {:>12}", number(act.mismatches));
    Ok(act)
}

fn finish(cli: &Cli) -> anyhow::Result<bool> {
    let report = Report {
        act: software(cli)?,
        tdx: cli.tdx.then(|| tdx(cli)).transpose()?,
        kernel_reports: None,
    };
    if let Some(path) = &cli.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let complaints = report.complaints();
    if complaints.is_empty() {
        println!("\nPASS: the guest kept every byte");
    }
    for complaint in &complaints {
        println!("\nFAIL: {complaint}");
    }
    Ok(complaints.is_empty())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.helper {
        Some(Helper::SetState { index, state }) => {
            let errno = offline::write_state(index, state);
            return ExitCode::from(u8::try_from(errno).unwrap_or(5));
        }
        Some(Helper::Hog { plan }) => {
            return match hog::child(plan) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => {
                    eprintln!("cannot take memory: {e}");
                    ExitCode::FAILURE
                }
            };
        }
        None => {}
    }
    match finish(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            println!("\nFAIL: {e:#}");
            ExitCode::FAILURE
        }
    }
}
