// SPDX-License-Identifier: GPL-2.0
//! Memory blocks with guest pages go offline and come back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use privmemctl::draw::number;
use privmemctl::kernel_log::KernelLog;
use privmemctl::memory::Block;

use super::{move_all, two_nodes};
use crate::report::Log;
use crate::stage::Stage;

/// Longest wait for the next page to leave a block that goes offline, or for a block to
/// come back: the kernel itself tries for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of the blocks.
#[derive(Debug, Default)]
pub struct Blocks {
    /// Times that a block with guest pages went offline.
    pub offlined: u64,
    /// Those that refused at least once, and for what.
    pub refused: BTreeMap<u64, String>,
}

/// Takes each block in ZONE_MOVABLE that holds guest pages offline and back, round after
/// round until so many pages have moved.
pub fn offline(stage: &Stage, rounds: u32, target: u64, log: &mut Log) -> anyhow::Result<Blocks> {
    let mut blocks = Blocks::default();
    for round in 0..rounds {
        if round > 0 && stage.sample()?.relocated >= target {
            break;
        }
        let before = blocks.offlined;
        let (map, census) = stage.census()?;
        for (index, pages) in census {
            let block = map.block(index);
            if block.is_movable() {
                try_block(stage, &block, &mut blocks, log)?;
            } else {
                log.note(format!(
                    "memory{index} holds {} guest pages but is in zone {}: not tried",
                    number(pages),
                    block.zone
                ));
            }
        }
        // Blocks that span zones, and those with pages of the kernel's own from before
        // there were zones, do not go offline: to where others are.
        if blocks.offlined == before {
            let (_, other) = two_nodes(stage)?;
            move_all(stage, 0..stage.size, other)?;
        }
    }
    for (index, why) in &blocks.refused {
        log.note(format!("memory{index} refused to go offline: {why}"));
    }
    Ok(blocks)
}

fn try_block(
    stage: &Stage,
    block: &Block,
    blocks: &mut Blocks,
    log: &mut Log,
) -> anyhow::Result<()> {
    let index = block.index;
    let mut kernel = KernelLog::from_now()?;
    match set_state(stage, block, "offline") {
        Ok(()) => {
            let left = pages_in(stage, index)?;
            if left > 0 {
                log.complaints.push(format!(
                    "memory{index} is offline with {left} guest pages in it"
                ));
            }
            set_state(stage, block, "online_movable")
                .with_context(|| format!("memory{index} does not come back"))?;
            blocks.offlined += 1;
        }
        Err(e) => {
            let dumped = kernel.dumped_page();
            let ours = stage.fd.pages(0..stage.size)?;
            if let Some((pfn, why)) = &dumped {
                if ours.contains(&Some(*pfn)) {
                    log.complaints.push(format!(
                        "memory{index} refused to go offline for a guest page, frame {pfn:#x}: {why}"
                    ));
                }
            }
            if e.kind() == io::ErrorKind::TimedOut {
                log.complaints.push(format!("memory{index}: {e}"));
            }
            let cause = dumped.map_or(String::new(), |(pfn, why)| {
                format!("; the kernel names frame {pfn:#x}, not the guest's: {why}")
            });
            blocks.refused.entry(index).or_insert(format!("{e}{cause}"));
        }
    }
    Ok(())
}

fn pages_in(stage: &Stage, index: u64) -> anyhow::Result<u64> {
    Ok(stage.census()?.1.get(&index).copied().unwrap_or(0))
}

/// Changes the state of a block by a child process that can be killed: going
/// offline ends by itself or by a signal only.
fn set_state(stage: &Stage, block: &Block, state: &str) -> io::Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .args(["set-state", &block.index.to_string(), state])
        .stdout(Stdio::null())
        .spawn()?;
    let (mut least, mut since) = (u64::MAX, Instant::now());
    loop {
        if let Some(status) = child.try_wait()? {
            return match status.code() {
                Some(0) => Ok(()),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Err(io::Error::other("killed")),
            };
        }
        let left = pages_in(stage, block.index).map_err(io::Error::other)?;
        if left < least {
            (least, since) = (left, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{state} made no progress for {PATIENCE:?}, {left} guest pages are left"),
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The child of [`set_state`]; returns the errno as exit status.
pub fn write_state(index: &str, state: &str) -> i32 {
    let path = Path::new("/sys/devices/system/memory").join(format!("memory{index}/state"));
    match fs::write(path, state) {
        Ok(()) => 0,
        Err(e) => e.raw_os_error().unwrap_or(libc::EIO),
    }
}
