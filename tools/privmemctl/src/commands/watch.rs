// SPDX-License-Identifier: GPL-2.0
//! `privmemctl watch`.

use std::fmt::Write as _;
use std::time::Instant;

use privmemctl::draw::{bytes, number};
use privmemctl::owners::Owner;
use privmemfd_ioctls::PrivMemFd;
use serde::Serialize;

use super::{interrupted, is_set, note_obstacles, seconds};
use crate::cli::MaybeTarget;
use crate::output::Out;
use crate::End;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: MaybeTarget,
    /// Seconds between two lines
    #[arg(long, default_value_t = 1.0)]
    interval: f64,
    /// Stop after this many lines
    #[arg(long)]
    count: Option<u64>,
}

/// Counters of a file, or sums, at a moment.
#[derive(Clone, Copy, Default, Serialize)]
struct Sample {
    pages: u64,
    relocated: u64,
    refused: u64,
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    sum: Sample,
    per_second: f64,
    /// Seconds that this is about, as measured.
    interval: f64,
}

pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<End> {
    let interval = seconds("--interval", args.interval)?;
    let files = args.target.selection().files()?;
    note_obstacles();
    let stop = interrupted()?;
    let screen = out.is_screen();
    if !screen && !out.is_json() {
        out.text(&format!(
            "{:>10} {:>12} {:>10} {:>10}\n",
            "PAGES", "RELOCATED", "PER SECOND", "REFUSED"
        ))?;
        out.flush()?;
    }
    let (mut last, mut then) = (samples(&files)?, Instant::now());
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && !is_set(&stop) {
        std::thread::sleep(interval);
        let (now, at) = (samples(&files)?, Instant::now());
        let took = (at - then).as_secs_f64();
        if screen {
            out.clear_screen()?;
            out.text(&table(&files, &last, &now, took))?;
            out.flush()?;
        } else {
            let sum = sum(&now);
            let moved = sum.relocated.saturating_sub(self::sum(&last).relocated);
            let line = Line {
                per_second: moved as f64 / took,
                interval: took,
                sum,
            };
            let text = format!(
                "{:>10} {:>12} {:>10.0} {:>10}",
                sum.pages, sum.relocated, line.per_second, sum.refused
            );
            out.put_line(&line, &text)?;
        }
        (last, then) = (now, at);
        left -= 1;
    }
    Ok(End::Well)
}

fn samples(files: &[(Owner, PrivMemFd)]) -> anyhow::Result<Vec<Sample>> {
    let sample = |(_, file): &(Owner, PrivMemFd)| {
        let s = file.stat()?;
        Ok(Sample {
            pages: s.pages,
            relocated: s.relocated,
            refused: s.refused.iter().sum(),
        })
    };
    files.iter().map(sample).collect()
}

fn sum(samples: &[Sample]) -> Sample {
    samples.iter().fold(Sample::default(), |sum, s| Sample {
        pages: sum.pages + s.pages,
        relocated: sum.relocated + s.relocated,
        refused: sum.refused + s.refused,
    })
}

/// Files, the busiest first.
fn table(files: &[(Owner, PrivMemFd)], last: &[Sample], now: &[Sample], took: f64) -> String {
    let mut rows: Vec<(&Owner, Sample, f64)> = files
        .iter()
        .zip(last.iter().zip(now))
        .map(|((owner, _), (last, now))| {
            let moved = now.relocated.saturating_sub(last.relocated);
            (owner, *now, moved as f64 / took)
        })
        .collect();
    rows.sort_by(|a, b| b.2.total_cmp(&a.2));
    let total: f64 = rows.iter().map(|row| row.2).sum();
    let mut text = format!(
        "{} files, {total:.0} pages a second (measured over {took:.2} s)\n\n",
        files.len()
    );
    let heads = [
        "PID",
        "COMM",
        "FD",
        "MEMORY",
        "RELOCATED",
        "PER SECOND",
        "REFUSED",
    ];
    let line = |w: [&str; 7]| {
        format!(
            "{:>7} {:<15} {:>4} {:>9} {:>12} {:>10} {:>10}",
            w[0], w[1], w[2], w[3], w[4], w[5], w[6]
        )
    };
    writeln!(text, "{}", line(heads)).expect("strings take everything");
    for (owner, now, rate) in rows {
        let (pid, fd) = (owner.pid.to_string(), owner.fd.to_string());
        let (memory, rate) = (bytes(now.pages << 12), format!("{rate:.0}"));
        let (relocated, refused) = (number(now.relocated), number(now.refused));
        let words = [&pid, &owner.comm, &fd, &memory, &relocated, &rate, &refused];
        writeln!(text, "{}", line(words.map(String::as_str))).expect("strings take everything");
    }
    text
}
