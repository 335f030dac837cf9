// SPDX-License-Identifier: GPL-2.0
//! What the kernel's log tells, from `/dev/kmsg`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// The kernel's log, read on from somewhere.
pub struct KernelLog(File);

impl KernelLog {
    /// From now on.
    pub fn from_now() -> io::Result<Self> {
        let mut log = Self::whole()?;
        log.0.seek(SeekFrom::End(0))?;
        Ok(log)
    }

    /// From the oldest line that is there.
    pub fn whole() -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let flags = OFlags::NONBLOCK.bits() as i32;
        options.read(true).custom_flags(flags);
        options.open("/dev/kmsg").map(Self)
    }

    /// The lines that have come, without what is before their text.
    pub fn lines(&mut self) -> Vec<String> {
        let (mut lines, mut record) = (Vec::new(), [0; 8192]);
        // A record a time; EPIPE where some were overwritten, EAGAIN at the end.
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return lines,
                Ok(n) => {
                    let record = String::from_utf8_lossy(&record[..n]);
                    let text = record.split_once(';').map_or("", |(_, text)| text);
                    lines.extend(text.lines().next().map(str::to_owned));
                }
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
                Err(_) => return lines,
            }
        }
    }

    /// The page for which memory was not given away, and why: the kernel dumps it.
    pub fn dumped_page(&mut self) -> Option<(u64, String)> {
        dumps(&self.lines()).pop()
    }
}

/// Every page dump of a log: frame and why.
pub fn dumps(lines: &[String]) -> Vec<(u64, String)> {
    let (mut frame, mut all) = (None, Vec::new());
    for line in lines {
        if let Some((_, rest)) = line.split_once(" pfn:0x") {
            let digits = rest.split_whitespace().next().unwrap_or_default();
            frame = u64::from_str_radix(digits, 16).ok();
        }
        if let Some((_, why)) = line.split_once("page dumped because: ") {
            all.extend(frame.take().map(|pfn| (pfn, why.to_owned())));
        }
    }
    all
}

/// Where a page that the TDX module keeps was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Inode of its file.
    pub ino: u64,
    /// Byte of the file.
    pub offset: u64,
}

/// Pages that privmemfd could not take back from the TDX module: the frame of each, every time it
/// was told.
pub fn kept(lines: &[String]) -> Vec<(u64, Kept)> {
    let page = |line: &String| {
        let (before, _) = line.split_once(", cannot be taken back from the TDX module")?;
        let (_, page) = before.rsplit_once("page 0x")?;
        let (frame, rest) = page.split_once(" of file ")?;
        let (ino, offset) = rest.split_once(", offset 0x")?;
        let kept = Kept {
            ino: ino.parse().ok()?,
            offset: u64::from_str_radix(offset, 16).ok()?,
        };
        Some((u64::from_str_radix(frame, 16).ok()?, kept))
    };
    lines.iter().filter_map(page).collect()
}

/// The TDs that were lost: inode of a file of their memory, each time it was told.
pub fn lost_tds(lines: &[String]) -> Vec<u64> {
    let file = |line: &String| {
        let (before, _) = line.split_once(" is lost: it must not run any more")?;
        before.rsplit_once(" with memory of file ")?.1.parse().ok()
    };
    lines.iter().filter_map(file).collect()
}

/// Frames of the CMA areas that the log of the boot tells of.
pub fn cma_areas(lines: &[String]) -> Vec<std::ops::Range<u64>> {
    let area = |line: &String| {
        let (size, at) = line
            .split_once("cma: Reserved ")?
            .1
            .split_once(" MiB at 0x")?;
        let start = u64::from_str_radix(at.split_whitespace().next()?, 16).ok()? >> 12;
        Some(start..start + (size.trim().parse::<u64>().ok()? << 8))
    };
    lines.iter().filter_map(area).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn dumped_pages_are_what_memory_was_refused_for() {
        let log = lines(
            "page: refcount:3 pfn:0x77\n\
             page dumped because: migration failure\n\
             something else\n\
             page: refcount:1 mapcount:0 mapping:0 index:0x0 pfn:0x13fffa\n\
             flags: 0x200000000002000(reserved|node=0|zone=2)\n\
             page dumped because: unmovable page\n",
        );
        let told = [
            (0x77, "migration failure".to_owned()),
            (0x13_fffa, "unmovable page".to_owned()),
        ];
        assert_eq!(dumps(&log), told);
        assert!(dumps(&lines("something else")).is_empty());
    }

    #[test]
    fn kept_pages_and_lost_tds_are_named_with_their_file() {
        let log = lines(
            "privmemfd: page 0x12f3c0 of file 4242, offset 0x3000, cannot be taken back from the TDX module before its TD is gone\n\
             privmemfd: the TD of TDR 0x7c000 with memory of file 4242 is lost: it must not run any more\n\
             privmemfd: page 0x7 of file x, offset 0x0, cannot be taken back from the TDX module\n\
             the letter is lost: it must not run any more",
        );
        let page = Kept {
            ino: 4242,
            offset: 0x3000,
        };
        assert_eq!(kept(&log), [(0x12f3c0, page)]);
        assert_eq!(lost_tds(&log), [4242]);
    }

    #[test]
    fn cma_areas_are_named_at_boot() {
        let log =
            lines("cma: Reserved 64 MiB at 0x00000000bc000000\ncma: Reserved 8 MiB in 2 ranges");
        assert_eq!(cma_areas(&log), vec![0xbc000..0xc0000; 1]);
    }
}
