// SPDX-License-Identifier: GPL-2.0
//! `privmemfd-bench-report`: pictures of a run of `privmemfd-bench`, and how it compares with another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{ensure, Context};
use clap::Parser;
use privmemfd_bench::report::Report;
use privmemfd_bench::{compare, picture};

/// Draw the figures of a run, and compare them with those of another. Fails if mm is refused a file for
/// longer the larger that is.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// What privmemfd-bench has written
    run: PathBuf,
    /// Another run: the figures that both have are printed side by side
    #[arg(long, value_name = "RUN")]
    base: Option<PathBuf>,
    /// Draw SVG pictures into this folder
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let report = read(&cli.run)?;
    if let Some(folder) = &cli.svg {
        picture::draw(&report, folder)?;
    }
    if let Some(base) = &cli.base {
        let worse = compare::print(&compare::rows(&read(base)?, &report));
        println!("{worse} figures are worse by more than 5 %");
    }
    let unbounded = report.unbounded();
    ensure!(unbounded.is_empty(), "{}", unbounded.join("\n"));
    Ok(())
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("privmemfd-bench-report: {e:#}");
            ExitCode::FAILURE
        }
    }
}
