// SPDX-License-Identifier: GPL-2.0
//! What the host does to the guest's memory.

pub mod compaction;
pub mod contiguous;
pub mod offline;

use std::ops::Range;

use anyhow::{bail, Context};
use privmemctl::draw::number;

use crate::report::Log;
use crate::stage::Stage;

/// Ourselves.
const PROGRAM: &str = "/proc/self/exe";

/// Most times that a request is repeated which some pages were refused to.
const TRIES: u32 = 2000;

/// The node that has most of the guest's pages, and another.
fn two_nodes(stage: &Stage) -> anyhow::Result<(u32, u32)> {
    let (map, census) = stage.census()?;
    let nodes = map.per_node(&census);
    let home = nodes.into_iter().max_by_key(|(_, pages)| *pages);
    let home = home
        .and_then(|(node, _)| node)
        .context("the guest's pages are on no known node")?;
    let other = map.nodes().into_iter().find(|n| *n != home);
    Ok((
        home,
        other.context("one node only (boot with numa=fake=2)")?,
    ))
}

/// Moves a range to a node, asking again while there is contention or single pages are refused.
fn move_all(stage: &Stage, range: Range<u64>, node: u32) -> anyhow::Result<u64> {
    let mut moved = 0;
    for _ in 0..TRIES {
        match stage.fd.move_range(range.clone(), Some(node)) {
            Ok(n) => return Ok(moved + n),
            Err(e) => {
                moved += e.moved;
                if !matches!(e.errno(), libc::EAGAIN | libc::EBUSY) {
                    return Err(e.into());
                }
            }
        }
    }
    bail!("the refusals did not end; {moved} pages moved")
}

/// Moves everything to another node and back, on request.
pub fn on_request(stage: &Stage, log: &mut Log) -> anyhow::Result<()> {
    let (home, other) = two_nodes(stage)?;
    for node in [other, home] {
        let moved = move_all(stage, 0..stage.size, node)?;
        log.note(format!("{} pages moved to node {node}", number(moved)));
        let (map, census) = stage.census()?;
        let there = map.per_node(&census).get(&Some(node)).copied();
        if there != Some(stage.size >> 12) {
            log.complaints.push(format!(
                "{} of the guest's pages are on node {node}",
                number(there.unwrap_or(0))
            ));
        }
    }
    Ok(())
}
