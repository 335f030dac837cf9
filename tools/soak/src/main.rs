// SPDX-License-Identifier: GPL-2.0
//! Long and hostile: random operations on privmemfds, compared with a model of what
//! must be visible; and relocations without pause below a guest that verifies.
//!
//! Runs in the test VM, on KVM with our patches, `privmemfd.ko`, `hwpoison-inject.ko`
//! and, for TDs, `tdxemu.ko` and `tdhost.ko`.

mod effect;
mod guest;
mod host;
mod model;
mod picture;
mod process;
mod relocate;
mod search;
mod strategy;
mod system;
mod td;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::search::{Divergence, Search};

/// Random operations against a model, and a million relocations.
#[derive(Debug, Parser)]
#[command(name = "privmemfd-soak", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Random operations, compared with a model.
    Model(ModelOptions),
    /// Relocations below guests that verify, on both backends.
    Relocate(relocate::Options),
    /// Draws the samples of `relocate --json`.
    Picture {
        /// What it has written.
        samples: PathBuf,
        /// The picture, SVG.
        picture: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct ModelOptions {
    /// Operations to carry out.
    #[arg(long, default_value_t = 10_000)]
    ops: u64,
    /// Seed of the first sequence; the next has the next.
    #[arg(long, default_value = "1", value_parser = number)]
    seed: u64,
    /// The sequence of this seed only: print each operation before it is carried
    /// out.
    #[arg(long)]
    one: bool,
    /// How sequences have ended that a machine has tried before it died.
    #[arg(long)]
    journal: Option<PathBuf>,
    /// Leave TDs out, which need tdxemu.ko and tdhost.ko.
    #[arg(long)]
    no_tds: bool,
    /// Where to write counts, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

/// What the last panic said: a divergence.
static PANIC: Mutex<String> = Mutex::new(String::new());

pub(crate) fn last_panic() -> String {
    PANIC.lock().unwrap_or_else(|e| e.into_inner()).clone()
}

/// What is known after a run.
#[derive(Debug, Serialize)]
struct Counts {
    operations: u64,
    /// First seed and the one after the last.
    seeds: [u64; 2],
    divergences: u64,
}

fn model(options: &ModelOptions) -> anyhow::Result<ExitCode> {
    std::panic::set_hook(Box::new(|info| {
        watch::say(&format!("# {}", info.to_string().replace('\n', "\n# ")));
        *PANIC.lock().unwrap_or_else(|e| e.into_inner()) = info.to_string();
    }));
    watch::start();
    if options.one {
        watch::print_operations();
    }
    let _ballast = host::ballast();
    let start = Instant::now();
    let mut seed = options.seed;
    let mut found = None;
    while found.is_none() && (watch::count() < options.ops && !options.one || seed == options.seed)
    {
        watch::say(&format!(
            "seed {seed:#x}, {} operations before",
            watch::count()
        ));
        let journal = options.journal.as_deref();
        found = if options.no_tds {
            Search::<false>::new(options.one, journal)?.sequence(seed)?
        } else {
            Search::<true>::new(options.one, journal)?.sequence(seed)?
        };
        seed += 1;
    }
    watch::print_times();
    let operations = watch::count();
    let took = start.elapsed().as_secs_f64();
    println!(
        "{operations} operations in {took:.0} s, {:.0} a second, seeds {:#x} to {:#x}",
        operations as f64 / took,
        options.seed,
        seed - 1
    );
    if let Some(path) = &options.json {
        let counts = Counts {
            operations,
            seeds: [options.seed, seed],
            divergences: found.is_some().into(),
        };
        std::fs::write(path, serde_json::to_string_pretty(&counts)? + "\n")?;
    }
    Ok(match found {
        None => ExitCode::SUCCESS,
        Some(divergence) => {
            report(&divergence, seed - 1);
            ExitCode::FAILURE
        }
    })
}

fn report(divergence: &Divergence, seed: u64) {
    println!("DIVERGENCE of seed {seed:#x}, the shortest sequence that shows it:");
    for (n, op) in divergence.operations.iter().enumerate() {
        println!("  {} {op:?}", n + 1);
    }
    println!("{}", divergence.reason);
    println!("again: privmemfd-soak model --one --seed {seed:#x}");
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|a| a == process::ROLE) {
        process::role(&arguments[2..]);
    }
    match Arguments::parse().what {
        What::Model(options) => model(&options),
        What::Relocate(options) => {
            relocate::run(&options)?;
            Ok(ExitCode::SUCCESS)
        }
        What::Picture { samples, picture } => {
            let result = serde_json::from_str(&std::fs::read_to_string(samples)?)?;
            picture::draw(&result, &picture)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
