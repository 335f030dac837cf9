// SPDX-License-Identifier: GPL-2.0
//! `privmemctl move`.

use std::collections::BTreeMap;

use anyhow::Context;
use privmemctl::draw::number;
use privmemctl::evacuate::{evacuate, Tally};
use privmemctl::size::parse_size;
use serde::Serialize;

use crate::cli::Target;
use crate::output::{complain, Out};
use crate::End;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// First byte, such as 0 or 2M
    #[arg(long, default_value = "0", value_parser = parse_size)]
    offset: u64,
    /// Bytes; up to the end if not given
    #[arg(long, value_parser = parse_size)]
    len: Option<u64>,
    /// NUMA node; any new place if not given
    #[arg(long)]
    node: Option<u32>,
}

#[derive(Serialize)]
struct Answer {
    moved: u64,
    there: u64,
    not_moved: BTreeMap<String, u64>,
}

pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<End> {
    let mut tally = Tally::default();
    let mut result = Ok(());
    for (_, file) in args.target.selection().files()? {
        let end = match args.len {
            Some(len) => args
                .offset
                .checked_add(len)
                .context("--offset and --len are too large")?,
            None => file.stat()?.size,
        };
        result = evacuate(&file, args.offset..end, args.node, &mut tally);
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() || tally != Tally::default() {
        let answer = Answer {
            moved: tally.moved,
            there: tally.there,
            not_moved: tally
                .stuck
                .iter()
                .map(|(why, n)| (why.to_string(), *n))
                .collect(),
        };
        out.put(&answer, |w| w.write_all(tally.text(args.node).as_bytes()))?;
        out.flush()?;
    }
    result?;
    match tally.not_moved() {
        0 => Ok(End::Well),
        n => {
            complain(&format!("{} pages did not move", number(n)));
            Ok(End::Short)
        }
    }
}
