// SPDX-License-Identifier: GPL-2.0
//! `privmemctl where`.

use std::path::PathBuf;

use anyhow::Context;
use privmemctl::draw::{bytes, number, picture};
use privmemctl::memory::{Census, MemoryMap};
use privmemctl::owners::Owner;
use privmemctl::svg;
use privmemfd_ioctls::{PrivMemFd, Stat};
use serde::Serialize;

use super::{by_zone, interrupted, is_set, note_obstacles, seconds};
use crate::cli::MaybeTarget;
use crate::output::Out;
use crate::End;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: MaybeTarget,
    /// Draw it into this file
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    svg: Option<PathBuf>,
    /// Draw it anew, until Ctrl-C; every second, or so many
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    live: Option<f64>,
    /// Stop after this many pictures
    #[arg(long, requires = "live")]
    count: Option<u64>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    owner: Owner,
    size: u64,
    pages: u64,
    blocks: Census,
    #[serde(skip)]
    stat: Stat,
}

pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<End> {
    let interval = args
        .live
        .map(|value| seconds("--live", value))
        .transpose()?;
    let files = args.target.selection().files()?;
    let stop = interrupted()?;
    let mut before = None;
    let mut left = match interval {
        Some(_) => args.count.unwrap_or(u64::MAX),
        None => 1,
    };
    loop {
        // Blocks come and go.
        let map =
            MemoryMap::read().context("this kernel has no memory hotplug: no memory blocks")?;
        let rows = look(&map, &files)?;
        if out.is_screen() && interval.is_some() {
            out.clear_screen()?;
        }
        if let Some(path) = &args.svg {
            let drawn: Vec<(String, &Census)> = rows
                .iter()
                .map(|r| (r.owner.to_string(), &r.blocks))
                .collect();
            svg::draw(path, &map, &drawn)?;
        } else {
            let text = text(&map, &rows, before.as_deref());
            out.put(&rows, |w| w.write_all(text.as_bytes()))?;
        }
        out.flush()?;
        left -= 1;
        if left == 0 || is_set(&stop) {
            break;
        }
        before = Some(rows);
        std::thread::sleep(interval.unwrap_or_default());
    }
    note_obstacles();
    Ok(End::Well)
}

fn look(map: &MemoryMap, files: &[(Owner, PrivMemFd)]) -> anyhow::Result<Vec<Row>> {
    let row = |(owner, file): &(Owner, PrivMemFd)| {
        let stat = file.stat()?;
        let frames = file.resident()?.into_iter().map(|(_, frame)| Some(frame));
        Ok(Row {
            owner: owner.clone(),
            size: stat.size,
            pages: stat.pages,
            blocks: map.count(&frames.collect::<Vec<_>>()),
            stat,
        })
    };
    files.iter().map(row).collect()
}

/// With what came and went since the picture before.
fn text(map: &MemoryMap, rows: &[Row], before: Option<&[Row]>) -> String {
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let before = before.and_then(|rows| rows.get(i)).map(|row| &row.blocks);
        let (size, pages, zones) = (bytes(row.size), number(row.pages), by_zone(&row.stat));
        text += &format!("{}: {size}, {pages} pages, zones {zones}\n", row.owner);
        text += &picture(map, &row.blocks, before);
    }
    text
}
