// SPDX-License-Identifier: GPL-2.0
//! `privmemfd-bench`: what a relocated page and a populated page cost, beside
//! a mapped memfd's pages and upstream guest_memfd in the same run.

mod mapped;
mod measure;
mod profile;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use measure::{Amount, Bench};
use privmemfd_bench::report::{Pair, Report, Unit};
use profile::Profiler;

/// What [`Cli::only`] can name.
const MEASUREMENTS: [&str; 9] = [
    "populate", "request", "mapped", "core", "growth", "sizes", "threads", "tdx", "held",
];

/// Measure what moving and populating private memory costs.
///
/// What stands beside something else is the median over rounds in which the two
/// sides take turns, so that both see the same machine; a ratio is the median of
/// the rounds' ratios. What must not grow is the least of three rounds, and a TD's
/// pages are the median of three: neither depends on --mib and --rounds.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// MiB that each side moves or populates in a round
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1024))]
    mib: u64,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// The machine's clock counts instructions, one a nanosecond
    #[arg(long)]
    instructions: bool,
    /// These only
    #[arg(long, value_delimiter = ',', value_name = "WHAT", value_parser = MEASUREMENTS)]
    only: Vec<String>,
    /// Say by function where the instructions go, and write the stacks to files in this folder;
    /// the figures then have the cost of the samples in them
    #[arg(long, value_name = "FOLDER")]
    profile: Option<PathBuf>,
    /// Measure the pauses alone, with a module that was loaded with this batch=
    #[arg(long, value_name = "BATCH", conflicts_with = "only")]
    pauses: Option<u64>,
    /// Write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Add the figures to those that the file has, if there is one
    #[arg(long, requires = "json")]
    add: bool,
}

type Measurement<T> = fn(&mut Bench) -> anyhow::Result<Vec<T>>;

fn run(cli: &Cli) -> anyhow::Result<Report> {
    let unit = match cli.instructions {
        true => Unit::Instructions,
        false => Unit::Ns,
    };
    let amount = Amount {
        mib: cli.mib,
        rounds: cli.rounds,
        unit,
    };
    let mut bench = Bench {
        amount,
        notes: Vec::new(),
        profiler: cli.profile.clone().map(Profiler::new).transpose()?,
    };
    let wanted = |what: &str| {
        let any = cli.only.is_empty() || cli.only.iter().any(|only| only == what);
        any && cli.pauses.is_none()
    };
    let all: [(&str, Measurement<Pair>); 4] = [
        ("populate", measure::populate),
        ("request", measure::request),
        ("mapped", measure::request_mapped),
        ("core", measure::offline),
    ];
    let mut pairs = Vec::new();
    for (what, measure) in all {
        if wanted(what) {
            pairs.extend(measure(&mut bench)?);
        }
    }
    let (mut growth, mut tdx) = (Vec::new(), Vec::new());
    let (mut held, mut pause) = (Vec::new(), Vec::new());
    if wanted("growth") {
        growth = measure::growth(&mut bench)?;
    }
    if wanted("sizes") {
        growth.extend(measure::sizes(&mut bench)?);
    }
    if wanted("threads") {
        growth.extend(measure::threads(&mut bench)?);
    }
    if wanted("tdx") {
        tdx = measure::tdx(&mut bench)?;
    }
    if wanted("held") {
        held = measure::held(&mut bench)?;
    }
    if let Some(batch) = cli.pauses {
        pause = measure::pauses(&mut bench, batch)?;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(Report {
        kernel: release.trim().into(),
        unit,
        pages: amount.pages(),
        pairs,
        growth,
        tdx,
        held,
        pause,
        profiles: bench.profiler.map_or(Ok(Vec::new()), Profiler::report)?,
        notes: bench.notes,
    })
}

/// Writes the figures; or adds them to those that are there.
fn write(mut report: Report, path: &Path, add: bool) -> anyhow::Result<()> {
    if add && path.exists() {
        let mut all: Report = serde_json::from_str(&fs::read_to_string(path)?)?;
        all.append(report);
        report = all;
    }
    let text = serde_json::to_string_pretty(&report)?;
    Ok(fs::write(path, text + "\n")?)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let report = match run(&cli) {
        Ok(report) => report,
        Err(e) => {
            eprintln!("privmemfd-bench: {e:#}");
            return ExitCode::FAILURE;
        }
    };
    report.print();
    if let Some(path) = &cli.json {
        if let Err(e) = write(report, path, cli.add) {
            eprintln!("privmemfd-bench: {}: {e:#}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
