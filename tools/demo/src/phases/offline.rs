// SPDX-License-Identifier: GPL-2.0
//! Memory blocks with guest pages go offline and come back.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use privmemctl::draw::number;
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
    let mut kernel = KernelLog::open()?;
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

/// What the kernel logs from now on.
struct KernelLog(File);

impl KernelLog {
    fn open() -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// The page for which a block was refused, and why: the kernel dumps it.
    fn dumped_page(&mut self) -> Option<(u64, String)> {
        let (mut text, mut record) = (String::new(), [0; 8192]);
        // A record a time; EPIPE where some were overwritten, EAGAIN at the end.
        loop {
            match self.0.read(&mut record) {
                Ok(n) => text.push_str(&String::from_utf8_lossy(&record[..n])),
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return last_dump(&text),
            }
        }
    }
}

/// The last page dump in a log.
fn last_dump(log: &str) -> Option<(u64, String)> {
    let (mut frame, mut last) = (None, None);
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once(" pfn:0x") {
            let digits = rest.split_whitespace().next().unwrap_or_default();
            frame = u64::from_str_radix(digits, 16).ok();
        }
        if let Some((_, why)) = line.split_once("page dumped because: ") {
            last = frame.take().map(|pfn| (pfn, why.to_owned()));
        }
    }
    last
}

/// The child of [`set_state`]; returns the errno as exit status.
pub fn write_state(index: &str, state: &str) -> i32 {
    let path = Path::new("/sys/devices/system/memory").join(format!("memory{index}/state"));
    match fs::write(path, state) {
        Ok(()) => 0,
        Err(e) => e.raw_os_error().unwrap_or(libc::EIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_dumped_page_is_what_a_block_was_refused_for() {
        let log = "4,1,2,-;page: refcount:1 mapcount:0 mapping:0 index:0x0 pfn:0x13fffa\n\
                   4,1,3,-;flags: 0x200000000002000(reserved|node=0|zone=2)\n\
                   4,1,4,-;page dumped because: unmovable page\n";
        let unmovable = Some((0x13_fffa, "unmovable page".to_owned()));
        assert_eq!(last_dump(log), unmovable);
        let earlier =
            "4,1,1,-;page: refcount:3 pfn:0x77\n4,1,1,-;page dumped because: migration failure\n";
        assert_eq!(last_dump(&(earlier.to_owned() + log)), unmovable);
        assert_eq!(last_dump("4,1,1,-;something else\n"), None);
    }
}
