// SPDX-License-Identifier: GPL-2.0
//! Makes TDs with KVM's own ioctls and tests what happens to their memory.
//!
//! `td-test kvm|privmemfd [MiB] [vCPUs] [moves]`; the output is KTAP, followed by
//! one line `td-test: {...}` of counters.

mod cases;
mod guest;
mod tdx;
mod vm;

use std::process::ExitCode;

use cases::{Options, CASES};
use vm::Provider;

fn options() -> Option<Options> {
    let mut args = std::env::args().skip(1);
    let provider = match args.next()?.as_str() {
        "kvm" => Provider::Kvm,
        "privmemfd" => Provider::Privmemfd,
        _ => return None,
    };
    let mut number = |default| args.next().map_or(Some(default), |a| a.parse::<u64>().ok());
    Some(Options {
        provider,
        size: number(8)? << 20,
        vcpus: number(1)?,
        moves: number(4)?,
    })
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("usage: td-test kvm|privmemfd [MiB] [vCPUs] [moves]");
        return ExitCode::from(2);
    };
    println!("KTAP version 1\n1..{}", CASES.len());
    let mut failed = false;
    let mut counters = Vec::new();
    for (i, (name, case)) in CASES.iter().enumerate() {
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
