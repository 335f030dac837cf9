// SPDX-License-Identifier: GPL-2.0
//! `privmemctl`: look at privmemfds, move their pages, and free the memory below them.

mod cli;
mod commands;
mod output;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use output::Out;

/// How a command has ended; a request that failed is an error instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All went well.
    Well,
    /// Something is missing, or has not moved.
    Short,
    /// Something stays where it is.
    Stays,
    /// The time was over.
    OutOfTime,
    /// Somebody else's exit status.
    Status(u8),
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Well => 0,
            End::Short => 1,
            End::Stays => 3,
            End::OutOfTime => 4,
            End::Status(status) => status,
        })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Out::new(cli.json, cli.ascii);
    let result = commands::run(&cli.command, &mut out).and_then(|end| {
        out.flush()?;
        Ok(end)
    });
    match result {
        Ok(end) => end.into(),
        // Who reads the output has seen enough.
        Err(e) if is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            // What was found before.
            let _ = out.flush();
            output::complain(&format!("{e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
