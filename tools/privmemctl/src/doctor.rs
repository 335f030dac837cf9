// SPDX-License-Identifier: GPL-2.0
//! What a machine needs for private memory that moves, what of it is missing, and the next
//! command to type. Changes nothing.

mod machine;
mod memory;
mod tdx;

use std::io::{self, Write};

use serde::Serialize;

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// There, and right.
    Ok,
    /// To be known.
    Note,
    /// Needed, and not there.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// How it is.
    pub health: Health,
    /// What was looked at.
    pub what: String,
    /// What there is.
    pub found: String,
    /// What to do, as a command where one does it; empty if nothing is to be done.
    pub next: String,
}

impl Check {
    fn new(health: Health, what: &str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            health,
            what: what.into(),
            found: found.into(),
            next: next.into(),
        }
    }

    fn ok(what: &str, found: impl Into<String>) -> Self {
        Self::new(Health::Ok, what, found, "")
    }

    fn note(what: &str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Health::Note, what, found, next)
    }

    fn missing(what: &str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Health::Missing, what, found, next)
    }

    /// Needed: with what was found where it is there, and the next command where it is not.
    fn needs(what: &str, found: Option<String>, next: &str) -> Self {
        match found {
            Some(found) => Self::ok(what, found),
            None => Self::missing(what, "", next),
        }
    }
}

/// All there is to be said, in the order in which things are set up.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether nothing is missing.
    pub ready: bool,
    /// The command, or advice, about the first thing that is missing.
    pub next: Option<String>,
    /// What was looked at.
    pub checks: Vec<Check>,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        let first = checks.iter().find(|c| c.health == Health::Missing);
        Self {
            ready: first.is_none(),
            next: first.map(|c| c.next.clone()),
            checks,
        }
    }

    /// For people.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for check in &self.checks {
            let mark = match check.health {
                Health::Ok => "ok",
                Health::Note => "note",
                Health::Missing => "MISSING",
            };
            write!(out, "{mark:<8} {}", check.what)?;
            if !check.found.is_empty() {
                write!(out, ": {}", check.found)?;
            }
            writeln!(out)?;
            if !check.next.is_empty() {
                writeln!(out, "         -> {}", check.next)?;
            }
        }
        match &self.next {
            None => writeln!(out, "ready"),
            Some(next) => writeln!(out, "not ready; next: {next}"),
        }
    }
}

/// Looks at the machine; at what TDs need too if that is asked for.
pub fn examine(tdx: bool) -> Report {
    let mut checks = machine::checks(tdx);
    checks.extend(memory::checks());
    if tdx {
        checks.extend(tdx::checks());
    }
    Report::new(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thing_that_is_missing_comes_next() {
        let report = Report::new(vec![
            Check::ok("a", "1"),
            Check::note("b", "2", "look"),
            Check::missing("c", "", "do this"),
            Check::missing("d", "", "do that"),
        ]);
        let mut text = Vec::new();
        report.write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(!report.ready);
        assert!(text.ends_with("not ready; next: do this\n"), "{text}");
        assert!(Report::new(vec![Check::ok("a", "")]).ready);
    }
}
