// SPDX-License-Identifier: GPL-2.0
//! Memory is compacted, and huge pages can be had that could not before.

use std::fs;
use std::path::Path;

use anyhow::bail;
use demo::free_lists;
use demo::hog::{HogProcess, Plan, HUGE};
use demo::settings::Settings;
use privmemctl::draw::number;
use privmemctl::memory::ShortFreeLists;

use super::{move_all, two_nodes, PROGRAM};
use crate::report::Log;
use crate::stage::Stage;

/// Most times that huge pages are taken before there is none.
const TRIES: u32 = 20;

/// Lays the guest's pages among holes, takes every huge page of their node, so that none
/// can be had, and has the kernel compact the node.
pub fn compact(stage: &Stage, log: &mut Log) -> anyhow::Result<()> {
    // A huge page comes from what is free: nobody compacts on its way.
    let _settings = Settings::new(&[("/sys/kernel/mm/transparent_hugepage/defrag", "never")])?;
    let _lists = ShortFreeLists::new()?;
    let (node, other) = two_nodes(stage)?;
    move_all(stage, 0..stage.size, other)?;
    let size = 2 * stage.size;
    let (holes, _) = HogProcess::start(Path::new(PROGRAM), &Plan::Holes { node, size })?;
    move_all(stage, 0..stage.size, node)?;
    let (mut huge, mut taken) = HogProcess::start(Path::new(PROGRAM), &Plan::Huge { node })?;
    drop(holes);
    let mut tries = 0;
    loop {
        let more = huge.again()?;
        taken += more;
        tries += 1;
        match more {
            0 => break,
            _ if tries < TRIES => {}
            _ => bail!("node {node} does not run out of huge pages"),
        }
    }

    let from = stage.sample()?.relocated;
    fs::write(format!("/sys/devices/system/node/node{node}/compact"), "1")?;
    let moved = stage.sample()?.relocated - from;
    log.by_itself = Some(moved);
    free_lists::put_back(node, stage.size)?;
    let had = huge.again()?;
    log.note(format!(
        "no huge page could be had on node {node} any more, {} were taken; \
         compaction moved {} guest pages, then {had} could be had",
        number(taken),
        number(moved)
    ));
    // The guest's pages and the holes are as many huge pages' worth of memory each.
    let least = stage.size / HUGE / 4;
    if had < least {
        log.complaints.push(format!(
            "{had} huge pages after compaction, {least} were expected at least"
        ));
    }
    Ok(())
}
