// SPDX-License-Identifier: GPL-2.0
//! `replay FILE...`: replays recordings and compares. Exit status 0 if nothing
//! failed or was skipped.

use std::fs::File;
use std::io::{self, BufReader};
use std::process::ExitCode;

use tdx_emu_replay::{Options, Replayer};

const USAGE: &str = "usage: replay [--cipher] FILE...\n\
    Replays recorded TDX module call sequences against the model. `-` reads standard input.\n\
    --cipher  encrypt memory as the emulator does by default; content that the recording\n\
    \u{20}         reads back without having written it differs then";

fn main() -> ExitCode {
    let mut options = Options::default();
    let mut files = Vec::new();
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--cipher" => options.cipher = true,
            "-h" | "--help" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => files.push(arg),
        }
    }
    if files.is_empty() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let mut replayer = Replayer::new(options);
    let mut broken = false;
    for name in &files {
        let r = if name == "-" {
            replayer.file(name, io::stdin().lock())
        } else {
            match File::open(name) {
                Ok(f) => replayer.file(name, BufReader::new(f)),
                Err(e) => Err(format!("{name}: {e}")),
            }
        };
        if let Err(e) = r {
            eprintln!("{e}");
            broken = true;
        }
        for m in replayer.report.messages.drain(..) {
            println!("{m}");
        }
    }
    println!("{}", replayer.report.summary());
    if broken || replayer.report.failed + replayer.report.skipped > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
