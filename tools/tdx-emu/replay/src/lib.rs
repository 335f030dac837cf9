// SPDX-License-Identifier: GPL-2.0
//! Replays recorded TDX module call sequences against the model and compares
//! every output register, probe and final dump.
//!
//! A recording is a file of JSON lines: a header per sequence, then calls,
//! guest events, pseudo-operations and probes (see the README of the project's
//! `tools/tdx-emu`).

pub mod exec;
pub mod memory;
pub mod world;

use std::collections::HashMap;
use std::io::BufRead;

use serde_json::Value;
use world::World;

/// The result of a replay.
#[derive(Debug, Default)]
pub struct Report {
    /// Sequences without a difference.
    pub passed: usize,
    /// Sequences with one.
    pub failed: usize,
    /// Sequences that use something the replayer does not know.
    pub skipped: usize,
    /// First difference of each failed sequence, reason of each skipped one.
    pub messages: Vec<String>,
}

impl Report {
    /// The last line of the replayer's output.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Why a sequence did not pass.
#[derive(Debug)]
pub enum Trouble {
    /// The model answered something else.
    Differs(String),
    /// The recording uses something unknown.
    Unknown(String),
}

/// Options of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Encrypt memory. The recordings were made without KeyIDs, so leftover
    /// content read back by a debugger differs then.
    pub cipher: bool,
}

struct Sequence {
    header: Value,
    lines: Vec<(usize, Value)>,
}

/// A replay over any number of files. Preludes are kept by name.
pub struct Replayer {
    base: World,
    preludes: HashMap<String, World>,
    /// The outcome so far.
    pub report: Report,
}

const KNOWN_USES: &[&str] = &[
    "GUEST",
    "LOCK",
    "OPSTATE",
    "POKE_SEPT",
    "TDFATAL",
    "INTR_PENDING",
    "ADVANCE_TSC",
    "PCONFIG_RESULT",
];

impl Replayer {
    /// Builds the initial world.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Replayer {
            base: World::initial(options.cipher),
            preludes: HashMap::new(),
            report: Report::default(),
        }
    }

    /// Replays one recording.
    ///
    /// # Errors
    /// It cannot be read, or a line is not JSON.
    pub fn file(&mut self, name: &str, input: impl BufRead) -> Result<(), String> {
        let mut current: Option<Sequence> = None;
        for (i, line) in input.lines().enumerate() {
            let line = line.map_err(|e| format!("{name}:{}: {e}", i + 1))?;
            if line.trim().is_empty() {
                continue;
            }
            let v: Value =
                serde_json::from_str(&line).map_err(|e| format!("{name}:{}: {e}", i + 1))?;
            if v.get("op").is_none() {
                if let Some(s) = current.take() {
                    self.sequence(name, &s);
                }
                current = Some(Sequence {
                    header: v,
                    lines: Vec::new(),
                });
            } else if let Some(s) = &mut current {
                s.lines.push((i + 1, v));
            } else {
                return Err(format!("{name}:{}: a line before any header", i + 1));
            }
        }
        if let Some(s) = current {
            self.sequence(name, &s);
        }
        Ok(())
    }

    /// A copy of the world after a prelude that has passed.
    #[must_use]
    pub fn prelude(&self, name: &str) -> Option<World> {
        self.preludes.get(name).cloned()
    }

    fn sequence(&mut self, file: &str, s: &Sequence) {
        let seq = s.header["seq"].as_str().unwrap_or("?").to_string();
        match self.run(s) {
            Ok(world) => {
                self.report.passed += 1;
                if s.header.get("is_prelude").is_some() {
                    self.preludes.insert(seq, world);
                }
            }
            Err((line, Trouble::Differs(d))) => {
                self.report.failed += 1;
                self.report
                    .messages
                    .push(format!("FAIL {seq} ({file}:{line}): {d}"));
            }
            Err((line, Trouble::Unknown(d))) => {
                self.report.skipped += 1;
                self.report
                    .messages
                    .push(format!("SKIP {seq} ({file}:{line}): {d}"));
            }
        }
    }

    fn run(&self, s: &Sequence) -> Result<World, (usize, Trouble)> {
        let first = s.lines.first().map_or(0, |l| l.0);
        if let Some(uses) = s.header.get("uses").and_then(Value::as_array) {
            if let Some(u) = uses
                .iter()
                .filter_map(Value::as_str)
                .find(|u| !KNOWN_USES.contains(u))
            {
                return Err((first, Trouble::Unknown(format!("uses {u}"))));
            }
        }
        let mut world = match s.header.get("prelude").and_then(Value::as_str) {
            None => self.base.clone(),
            Some(p) => self
                .preludes
                .get(p)
                .cloned()
                .ok_or((first, Trouble::Unknown(format!("prelude {p} did not pass"))))?,
        };
        for (line, v) in &s.lines {
            exec::line(&mut world, v).map_err(|t| (*line, t))?;
        }
        Ok(world)
    }
}
