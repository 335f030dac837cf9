// SPDX-License-Identifier: GPL-2.0
//! What keeps a piece of memory from going.

mod look;
mod reasons;

use std::io::{self, Write};

use serde::Serialize;

use crate::draw::number;
use crate::frames::Moves;
use crate::owners::Owner;

pub use look::survey;

/// Processes that are named for pages of one kind.
const NAMED: usize = 3;

/// What is in the way, or is not, and what to do about it.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Whether it goes.
    pub verdict: Moves,
    /// Pages of the place that this is about.
    pub pages: u64,
    /// What they are.
    pub what: String,
    /// The lowest frame among them.
    pub frame: u64,
    /// Descriptors of the privmemfd that they belong to.
    pub files: Vec<Owner>,
    /// First byte of that file among them.
    pub offset: Option<u64>,
    /// Processes that map them, and how many.
    pub processes: Vec<Mapper>,
    /// Memory cgroup of the first one.
    pub cgroup: Option<String>,
    /// Why.
    pub reason: String,
    /// What to do.
    pub advice: String,
}

/// A process that maps pages.
#[derive(Debug, Clone, Serialize)]
pub struct Mapper {
    /// Process.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Pages.
    pub pages: u64,
}

/// Everything that is to be said about a place.
#[derive(Debug, Clone, Serialize)]
pub struct Survey {
    /// Name of the place.
    pub place: String,
    #[serde(skip)]
    heading: String,
    /// Pages that the place has.
    pub pages: u64,
    /// Pages with nothing in them.
    pub free: u64,
    /// Whether it is offline already.
    pub offline: bool,
    /// What is in it, what stays first.
    pub findings: Vec<Finding>,
    /// The frames for which the kernel has refused to give the place away, the last
    /// ones, with its reason.
    pub kernel_refused: Vec<(u64, String)>,
}

impl Survey {
    /// Whether something there stays.
    pub fn stays(&self) -> bool {
        !self.offline && self.findings.iter().any(|f| f.verdict == Moves::Never)
    }

    /// Pages of privmemfds there that mm or a request can move.
    pub fn ours(&self) -> u64 {
        let movable = self.findings.iter().filter(|f| !f.files.is_empty());
        movable.map(|f| f.pages).sum()
    }

    /// For people.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let stays = self.findings.iter().filter(|f| f.verdict == Moves::Never);
        let conclusion = match stays.count() {
            _ if self.offline => "is offline",
            0 => "nothing that is known to stay",
            _ => "does not go",
        };
        writeln!(out, "{}: {conclusion}", self.heading)?;
        for finding in &self.findings {
            finding.write(out)?;
        }
        if !self.offline {
            writeln!(out, "  {:<11} {:>9} pages", "free", number(self.free))?;
        }
        for (frame, why) in &self.kernel_refused {
            writeln!(
                out,
                "  the kernel's log: refused for frame {frame:#x}: {why}"
            )?;
        }
        Ok(())
    }
}

impl Finding {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let verdict = match self.verdict {
            Moves::Never => "STAYS",
            Moves::Perhaps => "may stay",
            Moves::Yes => "moves",
            Moves::Passed => "passed over",
            Moves::Gone => "free",
        };
        let pages = number(self.pages);
        writeln!(out, "  {verdict:<11} {pages:>9} pages  {}", self.what)?;
        let indent = " ".repeat(30);
        for owner in &self.files {
            write!(out, "{indent}{owner}")?;
            if let Some(offset) = self.offset {
                write!(out, ", from byte {offset:#x}")?;
            }
            writeln!(out)?;
        }
        for Mapper { pid, comm, pages } in self.processes.iter().take(NAMED) {
            writeln!(out, "{indent}{comm} (pid {pid}) maps {}", number(*pages))?;
        }
        if let more @ 1.. = self.processes.len().saturating_sub(NAMED) {
            writeln!(out, "{indent}and {more} more processes")?;
        }
        let quiet = self.verdict == Moves::Yes && self.files.is_empty();
        if !quiet {
            write!(out, "{indent}first frame {:#x}", self.frame)?;
            match &self.cgroup {
                Some(group) => writeln!(out, ", cgroup {group}")?,
                None => writeln!(out)?,
            }
        }
        for text in [&self.reason, &self.advice] {
            if !text.is_empty() {
                writeln!(out, "{indent}{text}")?;
            }
        }
        Ok(())
    }
}
