// SPDX-License-Identifier: GPL-2.0
//! A TD that owns the guest's memory as well: the pages move when the (emulated)
//! TDX module says so.
//!
//! Needs tdxemu.ko with `cipher=0` and tdhost.ko. The TD has the guest's pages
//! in its S-EPT, at their offset in the file, and a vCPU of its own that reads
//! them without pause; so the backend has vCPUs to kick. The memory is not
//! encrypted, since the guest that KVM runs has no key.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{bail, Context};
use privmemfd_ioctls::PrivMemFd;
use serde::Serialize;
use tdhost::{Command, Td, MOVE_LEAVES};

const EMULATOR: &str = "/sys/kernel/debug/tdxemu";
const MODULE: &str = "/sys/kernel/debug/privmemfd";

/// Calls that fail while [`Companion::sabotage`] lives. The values are the
/// status in RAX, with the operand it is about.
const FAULTS: [&str; 5] = [
    // OPERAND_BUSY, S-EPT tree
    "TDH.MEM.RANGE.BLOCK every=61 status=0x8000020000000092",
    // PREVIOUS_TLB_EPOCH_BUSY
    "TDH.MEM.TRACK every=7 status=0x8000020100000000",
    // TLB_TRACKING_NOT_DONE, RCX
    "TDH.MEM.PAGE.RELOCATE every=89 status=0xc0000b0800000001",
    // PAGE_METADATA_INCORRECT, R8: the page goes back to where it was
    "TDH.MEM.PAGE.RELOCATE every=97 status=0xc000030000000008",
    // OPERAND_BUSY, RCX
    "TDH.PHYMEM.PAGE.WBINVD every=31 status=0x8000020000000001",
];

/// What the emulator and the backend have counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// SEAMCALLs by leaf.
    pub seamcalls: BTreeMap<String, u64>,
    /// Those that succeeded.
    pub succeeded: BTreeMap<String, u64>,
    /// Pages that the TDX module moved.
    #[serde(skip)]
    pub moved: u64,
    /// Times that vCPUs were made to leave the guest.
    pub kicks: u64,
    /// Times that they were also kept outside.
    pub holds: u64,
    /// Calls that the emulator failed on purpose.
    pub injected_faults: u64,
    /// Pages that went back to where they were.
    pub rollbacks: u64,
    /// Pages that the host can never use again.
    pub leaked_pages: u64,
}

impl Counters {
    fn read() -> anyhow::Result<Self> {
        let calls = fs::read_to_string(Path::new(EMULATOR).join("counters"))
            .context("cannot read the emulator's counters")?;
        let ours = |name: &str| -> anyhow::Result<u64> {
            let path = Path::new(MODULE).join(name);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok(text.trim().parse()?)
        };
        Ok(Self {
            seamcalls: by_leaf(&calls, "calls"),
            succeeded: by_leaf(&calls, "SUCCESS"),
            moved: ours("tdx_relocated")?,
            kicks: ours("tdx_kicks")?,
            holds: ours("tdx_holds")?,
            injected_faults: 0,
            rollbacks: ours("tdx_rollbacks")?,
            leaked_pages: ours("tdx_pages_kept")?,
        })
    }

    fn since(&self, from: &Self) -> Self {
        let less = |now: &BTreeMap<String, u64>, then: &BTreeMap<String, u64>| {
            now.iter()
                .map(|(leaf, n)| (leaf.clone(), n - then.get(leaf).unwrap_or(&0)))
                .collect()
        };
        Self {
            seamcalls: less(&self.seamcalls, &from.seamcalls),
            succeeded: less(&self.succeeded, &from.succeeded),
            moved: self.moved - from.moved,
            kicks: self.kicks - from.kicks,
            holds: self.holds - from.holds,
            injected_faults: self.injected_faults,
            rollbacks: self.rollbacks - from.rollbacks,
            leaked_pages: self.leaked_pages - from.leaked_pages,
        }
    }

    /// What speaks against the backend, if `relocated` pages have moved.
    pub fn complaints(&self, relocated: u64) -> Vec<String> {
        let succeeded = |leaf: &str| self.succeeded.get(leaf).copied().unwrap_or(0);
        let mut all = Vec::new();
        let relocates = succeeded("TDH.MEM.PAGE.RELOCATE");
        if relocates != relocated || self.moved != relocated {
            all.push(format!(
                "{relocated} pages moved by {relocates} TDH.MEM.PAGE.RELOCATE, of which the \
                 backend counted {}",
                self.moved
            ));
        }
        let tracks = succeeded("TDH.MEM.TRACK");
        if tracks > relocated || self.kicks > relocated {
            all.push(format!(
                "more than one TRACK ({tracks}) or kick ({}) for {relocated} pages",
                self.kicks
            ));
        }
        if self.leaked_pages > 0 {
            all.push(format!("{} pages leaked", self.leaked_pages));
        }
        if self.injected_faults == 0 || self.rollbacks == 0 {
            all.push(format!(
                "{} injected faults, {} rollbacks: the failures were not tried",
                self.injected_faults, self.rollbacks
            ));
        }
        all
    }
}

/// Numbers of one kind, by leaf, from lines `LEAF KIND NUMBER`.
fn by_leaf(text: &str, kind: &str) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<_, _> = MOVE_LEAVES
        .iter()
        .map(|leaf| ((*leaf).to_owned(), 0))
        .collect();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(leaf), Some(word), Some(number)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if let (true, Some(slot), Ok(number)) = (word == kind, all.get_mut(leaf), number.parse()) {
            *slot = number;
        }
    }
    all
}

/// Sum of `fired=N` over the rules.
fn fired(text: &str) -> u64 {
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix("fired=")?.parse::<u64>().ok())
        .sum()
}

/// A TD with the memory of a file.
pub struct Companion {
    td: Arc<Td>,
    stop: Arc<AtomicBool>,
    vcpu: JoinHandle<Result<(), String>>,
    from: Counters,
    injected: u64,
}

impl Companion {
    /// Makes the TD, gives it every page of the file, and lets it run.
    ///
    /// The TD accepts all pages, which zeroes them: nobody may have written yet.
    pub fn start(fd: &PrivMemFd, size: u64) -> anyhow::Result<Self> {
        let device =
            tdhost::Device::open().context("no TDs here: are tdxemu.ko and tdhost.ko loaded?")?;
        let pages = size / tdhost::PAGE;
        let td = device
            .create(fd, pages, 1, false)
            .context("cannot make a TD")?;
        td.finalize().context("cannot finalize the TD")?;
        td.aug(0..size).context("cannot give pages to the TD")?;
        let report = td
            .run(0, Command::Accept, 0..size)
            .context("the TD does not run")?;
        if report.pages != pages || report.code != 0 {
            bail!("the TD accepted {} of {pages} pages", report.pages);
        }
        let from = Counters::read()?;
        let td = Arc::new(td);
        let stop = Arc::new(AtomicBool::new(false));
        let vcpu = std::thread::spawn({
            let (td, stop) = (Arc::clone(&td), Arc::clone(&stop));
            move || {
                let mut next = (Command::Touch(1), 0..size);
                while !stop.load(Ordering::Relaxed) {
                    next = match td.run(0, next.0, next.1) {
                        Ok(_) => (Command::Touch(1), 0..size),
                        // A signal for the process, a child's end for instance, may come here.
                        Err(e) if e.kind() == ErrorKind::Interrupted => (Command::Continue, 0..0),
                        Err(e) => return Err(format!("the vCPU of the TD stopped: {e}")),
                    };
                }
                Ok(())
            }
        });
        Ok(Self {
            td,
            stop,
            vcpu,
            from,
            injected: 0,
        })
    }

    /// Lets calls fail while `work` runs.
    pub fn sabotage<T>(&mut self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let path = Path::new(EMULATOR).join("faults");
        for rule in FAULTS {
            fs::write(&path, rule).with_context(|| format!("no such fault: {rule}"))?;
        }
        let done = work();
        self.injected += fired(&fs::read_to_string(&path)?);
        fs::write(&path, "clear")?;
        done
    }

    /// Ends the TD and says what was counted.
    pub fn finish(self) -> anyhow::Result<Counters> {
        self.stop.store(true, Ordering::Relaxed);
        match self.vcpu.join() {
            Ok(Ok(())) => {}
            Ok(Err(e)) => bail!(e),
            Err(_) => bail!("the vCPU of the TD panicked"),
        }
        let mut counters = Counters::read()?.since(&self.from);
        counters.injected_faults = self.injected;
        if self.td.is_dead() {
            bail!("the TD is lost");
        }
        Ok(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "TDH.MEM.PAGE.RELOCATE calls 12\n\
                        TDH.MEM.PAGE.RELOCATE cycles 9999\n\
                        TDH.MEM.PAGE.RELOCATE SUCCESS 10\n\
                        TDH.MEM.PAGE.RELOCATE OPERAND_BUSY|0x1 2\n\
                        TDH.MEM.TRACK SUCCESS 10\n\
                        TDH.VP.ENTER calls 7\n";

    fn good() -> Counters {
        Counters {
            seamcalls: by_leaf(TEXT, "calls"),
            succeeded: by_leaf(TEXT, "SUCCESS"),
            moved: 10,
            kicks: 10,
            injected_faults: 2,
            rollbacks: 1,
            ..Counters::default()
        }
    }

    #[test]
    fn counters_are_told_apart_by_leaf_and_status() {
        let counters = good();
        assert_eq!(counters.seamcalls["TDH.MEM.PAGE.RELOCATE"], 12);
        assert_eq!(counters.succeeded["TDH.MEM.PAGE.RELOCATE"], 10);
        assert_eq!(counters.seamcalls["TDH.MEM.RANGE.UNBLOCK"], 0);
        assert_eq!(counters.seamcalls.len(), MOVE_LEAVES.len());
        assert_eq!(counters.since(&counters).succeeded["TDH.MEM.TRACK"], 0);
        assert_eq!(fired("a every=3 fired=4\nb nth=1 fired=1\n"), 5);
    }

    #[test]
    fn each_page_takes_one_relocate_and_at_most_one_track_and_kick() {
        assert!(good().complaints(10).is_empty());
        assert_eq!(good().complaints(11).len(), 1);
        for broken in [
            Counters { moved: 9, ..good() },
            Counters {
                kicks: 11,
                ..good()
            },
            Counters {
                leaked_pages: 1,
                ..good()
            },
            Counters {
                rollbacks: 0,
                ..good()
            },
            Counters {
                injected_faults: 0,
                ..good()
            },
        ] {
            assert_eq!(broken.complaints(10).len(), 1, "{broken:?}");
        }
    }
}
