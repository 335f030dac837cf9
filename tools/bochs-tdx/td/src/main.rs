// SPDX-License-Identifier: GPL-2.0
//! Makes TDs with KVM's own ioctls and tests what happens to their memory.
//!
//! `td-test kvm|privmemfd|moves|faults|lost|harm [MiB] [vCPUs] [moves] [case...]`; the
//! output is KTAP, followed by one line `td-test: {...}` of counters. In `faults` and
//! `lost` calls of the TDX module fail, `harm` does what no host may do. `td-test
//! seamcall|tdcall` executes that instruction, and nothing else.

mod cases;
mod guest;
mod tdx;
mod vm;

use std::process::ExitCode;

use cases::{faults, instructions, Case, Options, CASES, HARMFUL, MOVES};
use vm::Provider;

fn options() -> Option<(Options, Vec<(&'static str, Case)>)> {
    let mut args = std::env::args().skip(1);
    let (provider, cases) = match args.next()?.as_str() {
        "kvm" => (Provider::Kvm, CASES),
        "privmemfd" => (Provider::Privmemfd, CASES),
        "moves" => (Provider::Privmemfd, MOVES),
        "harm" => (Provider::Privmemfd, HARMFUL),
        "faults" => (Provider::Privmemfd, faults::SURVIVED),
        "lost" => (Provider::Privmemfd, faults::LOST),
        "bugs" => (Provider::Privmemfd, faults::BUGS),
        _ => return None,
    };
    let mut number = |default| args.next().map_or(Some(default), |a| a.parse::<u64>().ok());
    let options = Options {
        provider,
        size: number(8)? << 20,
        vcpus: number(1)?,
        moves: number(4)?,
    };
    let names: Vec<_> = args.collect();
    let wanted = |name| names.is_empty() || names.iter().any(|n| n == name);
    let cases = cases.iter().copied().filter(|(name, _)| wanted(*name));
    Some((options, cases.collect()))
}

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    if let Some(instruction) = first.as_deref().and_then(instructions::named) {
        instruction();
        return ExitCode::SUCCESS;
    }
    let Some((options, cases)) = options() else {
        eprintln!(
            "usage: td-test kvm|privmemfd|moves|faults|lost|harm [MiB] [vCPUs] [moves] [case...]"
        );
        return ExitCode::from(2);
    };
    println!("KTAP version 1\n1..{}", cases.len());
    let mut failed = false;
    let mut counters = Vec::new();
    for (i, (name, case)) in cases.iter().enumerate() {
        let n = i + 1;
        match case(&options, &mut counters) {
            Ok(cases::Outcome::Passed) => println!("ok {n} {name}"),
            Ok(cases::Outcome::Skipped(why)) => println!("ok {n} {name} # SKIP {why}"),
            Err(e) => {
                println!("# {e}\nnot ok {n} {name}");
                failed = true;
            }
        }
    }
    let pairs: Vec<_> = counters
        .iter()
        .map(|(k, v)| format!("\"{k}\":{v}"))
        .collect();
    println!("td-test: {{{}}}", pairs.join(","));
    ExitCode::from(u8::from(failed))
}
