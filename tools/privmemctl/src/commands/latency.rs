// SPDX-License-Identifier: GPL-2.0
//! `privmemctl latency`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use privmemctl::draw::{bar, number};
use privmemctl::tracing::Tracer;
use serde::Serialize;

use super::trace::{Files, Until, TICK};
use crate::cli::MaybeTarget;
use crate::output::{complain, Out};
use crate::End;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: MaybeTarget,
    /// Seconds to look; until Ctrl-C if not given
    #[arg(long)]
    seconds: Option<f64>,
    /// Stop after this many moves
    #[arg(long)]
    count: Option<u64>,
}

/// Moves by the time they took, each from the beginning of its batch.
#[derive(Debug, Default, Serialize)]
struct Histogram {
    /// Moves that were done.
    moves: u64,
    /// Moves that were refused; they are not in the buckets.
    refused: u64,
    min_ns: u64,
    median_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    /// Moves that took at least so many nanoseconds, and less than twice that.
    buckets: BTreeMap<u64, u64>,
    #[serde(skip)]
    times: Vec<u64>,
}

impl Histogram {
    fn add(&mut self, result: i32, ns: u64) {
        if result == 0 {
            self.times.push(ns);
        } else {
            self.refused += 1;
        }
    }

    fn finish(mut self) -> Self {
        self.times.sort_unstable();
        self.moves = self.times.len() as u64;
        let at = |part: usize| {
            let last = self.times.len().checked_sub(1)?;
            self.times.get(last * part / 100).copied()
        };
        let points = [0, 50, 99, 100].map(|part| at(part).unwrap_or(0));
        [self.min_ns, self.median_ns, self.p99_ns, self.max_ns] = points;
        for ns in &self.times {
            let least = 1 << ns.checked_ilog2().unwrap_or(0);
            *self.buckets.entry(least).or_default() += 1;
        }
        self
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let most = self.buckets.values().copied().max().unwrap_or(0);
        for (least, moves) in &self.buckets {
            let drawn = bar(*moves, most, 40);
            let (from, to) = (time(*least), time(*least * 2));
            writeln!(out, "{from:>9} - {to:<9} {drawn} {:>9}", number(*moves))?;
        }
        let (moves, refused) = (number(self.moves), number(self.refused));
        write!(out, "{moves} moves, {refused} refused")?;
        if self.moves > 0 {
            let points = [self.min_ns, self.median_ns, self.p99_ns, self.max_ns].map(time);
            let [min, median, p99, max] = points;
            write!(out, "; min {min}, median {median}, 99% {p99}, max {max}")?;
        }
        writeln!(out)
    }
}

/// Nanoseconds in the unit that suits them.
fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<End> {
    let until = Until::new(args.seconds)?;
    let mut files = Files::new(args.target.selection());
    let mut tracer = Tracer::start()?;
    complain("measuring; Ctrl-C ends it");
    let mut histogram = Histogram::default();
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && !until.is_over() {
        for moved in tracer.next(TICK)? {
            if left > 0 && files.wants(moved.ino) {
                histogram.add(moved.result, moved.ns);
                left -= 1;
            }
        }
    }
    drop(tracer);
    let histogram = histogram.finish();
    out.put(&histogram, |w| histogram.write(w))?;
    Ok(End::Well)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_move_is_in_one_bucket() {
        let mut histogram = Histogram::default();
        for ns in [0, 1, 1023, 1024, 2047, 5000] {
            histogram.add(0, ns);
        }
        histogram.add(-16, 7);
        let h = histogram.finish();
        assert_eq!(
            h.buckets,
            BTreeMap::from([(1, 2), (512, 1), (1024, 2), (4096, 1)])
        );
        assert_eq!((h.moves, h.refused, h.min_ns, h.max_ns), (6, 1, 0, 5000));
        assert_eq!((h.median_ns, h.p99_ns), (1023, 2047));
    }

    #[test]
    fn nothing_is_a_histogram_too() {
        let mut text = Vec::new();
        Histogram::default().finish().write(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "0 moves, 0 refused\n");
    }
}
