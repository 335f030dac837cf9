// SPDX-License-Identifier: GPL-2.0
//! `privmemctl stat`.

use std::collections::BTreeMap;

use privmemfd_ioctls::{Mobility, Stat};
use serde::Serialize;

use super::{refused, zones};
use crate::cli::Target;
use crate::output::Out;
use crate::End;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
}

/// What the kernel counts about a file.
#[derive(Serialize)]
pub struct Counters {
    mobility: &'static str,
    size: u64,
    pages: u64,
    zones: BTreeMap<&'static str, u64>,
    poisoned: u64,
    vms: u64,
    slots: u64,
    relocated: u64,
    refused: BTreeMap<&'static str, u64>,
}

impl From<&Stat> for Counters {
    fn from(s: &Stat) -> Self {
        Self {
            mobility: match s.mobility() {
                Some(Mobility::Movable) => "movable",
                Some(Mobility::Pinned) => "pinned",
                None => "unknown",
            },
            size: s.size,
            pages: s.pages,
            zones: zones(s).into_iter().collect(),
            poisoned: s.poisoned,
            vms: s.vms,
            slots: s.slots,
            relocated: s.relocated,
            refused: refused(s),
        }
    }
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    owner: privmemctl::owners::Owner,
    #[serde(flatten)]
    counters: Counters,
}

pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<End> {
    let mut rows = Vec::new();
    for (owner, file) in args.target.selection().files()? {
        let counters = Counters::from(&file.stat()?);
        rows.push(Row { owner, counters });
    }
    // One file is an object, several are an array.
    let text = match &rows[..] {
        [row] => serde_json::to_string_pretty(row)?,
        rows => serde_json::to_string_pretty(rows)?,
    };
    out.text(&format!("{text}\n"))?;
    Ok(End::Well)
}
