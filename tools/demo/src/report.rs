// SPDX-License-Identifier: GPL-2.0
//! What is left of a demonstration: a JSON file and a verdict.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::tdx::Counters;

/// What a phase leaves besides its counters.
#[derive(Debug, Default)]
pub struct Log {
    /// What did not go as planned, without harm.
    pub notes: Vec<String>,
    /// What speaks against success.
    pub complaints: Vec<String>,
    /// Pages moved by what the phase is about, where it also moves others.
    pub by_itself: Option<u64>,
}

impl Log {
    /// Adds a note, once.
    pub fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// One phase.
#[derive(Debug, Serialize)]
pub struct Phase {
    /// Short name.
    pub name: String,
    /// Pages moved in it.
    pub relocated_pages: u64,
    /// Of these: not on request to get guest pages where the phase wants them.
    pub moved_by_itself: u64,
    /// Bytes the guest verified in it.
    pub verified_bytes: u64,
    /// Cells the guest found wrong in it.
    pub mismatches: u64,
    /// How long it took, without the guest's last look at everything.
    pub milliseconds: u64,
    /// Pages by memory block.
    pub blocks_before: BTreeMap<u64, u64>,
    /// The same after it.
    pub blocks_after: BTreeMap<u64, u64>,
    /// What did not go as planned.
    pub notes: Vec<String>,
    /// What speaks against success.
    pub complaints: Vec<String>,
}

/// One guest from its start to its end.
#[derive(Debug, Serialize)]
pub struct Act {
    /// What moves content.
    pub backend: &'static str,
    /// Pages of private memory.
    pub guest_pages: u64,
    /// Relocations done.
    pub relocated_pages: u64,
    /// Bytes of these pages.
    pub relocated_bytes: u64,
    /// Relocations asked for.
    pub target: u64,
    /// Bytes the guest verified.
    pub verified_bytes: u64,
    /// Cells the guest found wrong.
    pub mismatches: u64,
    /// Times a memory block with guest pages was taken offline.
    pub offlined_blocks: u64,
    /// Blocks that refused, and for what.
    pub refused_blocks: BTreeMap<u64, String>,
    /// Relocations refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// The phases.
    pub phases: Vec<Phase>,
}

/// An act whose pages a TDX module moves.
#[derive(Debug, Serialize)]
pub struct TdxAct {
    /// The act.
    #[serde(flatten)]
    pub act: Act,
    /// What it took.
    #[serde(flatten)]
    pub counters: Counters,
}

/// The whole demonstration.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The first act.
    #[serde(flatten)]
    pub act: Act,
    /// The second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tdx: Option<TdxAct>,
    /// Whoever reads the kernel log fills this in.
    pub kernel_reports: Option<u64>,
}

impl Act {
    /// Everything that speaks against success.
    fn complaints(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.relocated_pages < self.target {
            all.push(format!(
                "{} relocations, {} were asked for",
                self.relocated_pages, self.target
            ));
        }
        if self.mismatches > 0 {
            all.push(format!("{} cells with wrong content", self.mismatches));
        }
        if self.offlined_blocks == 0 {
            all.push("no memory block went offline".into());
        }
        for phase in &self.phases {
            let name = &phase.name;
            if phase.verified_bytes == 0 {
                all.push(format!("the guest made no progress in phase {name}"));
            }
            if phase.moved_by_itself == 0 {
                all.push(format!("phase {name} moved no page"));
            }
            all.extend(phase.complaints.iter().map(|c| format!("{name}: {c}")));
        }
        all
    }
}

impl Report {
    /// Everything that speaks against success.
    pub fn complaints(&self) -> Vec<String> {
        let mut all = self.act.complaints();
        if let Some(TdxAct { act, counters }) = &self.tdx {
            all.extend(act.complaints());
            all.extend(counters.complaints(act.relocated_pages));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act() -> Act {
        Act {
            backend: "software",
            guest_pages: 1,
            relocated_pages: 20_000,
            relocated_bytes: 20_000 << 12,
            target: 20_000,
            verified_bytes: 1,
            mismatches: 0,
            offlined_blocks: 1,
            refused_blocks: BTreeMap::new(),
            refused: BTreeMap::new(),
            phases: vec![Phase {
                name: "offline".into(),
                relocated_pages: 20_000,
                moved_by_itself: 1,
                verified_bytes: 1,
                mismatches: 0,
                milliseconds: 1,
                blocks_before: BTreeMap::new(),
                blocks_after: BTreeMap::new(),
                notes: Vec::new(),
                complaints: Vec::new(),
            }],
        }
    }

    fn report() -> Report {
        Report {
            act: act(),
            tdx: None,
            kernel_reports: None,
        }
    }

    #[test]
    fn success_needs_relocations_content_and_progress() {
        assert!(report().complaints().is_empty());
        let mut r = report();
        r.act.relocated_pages = 19_999;
        assert_eq!(r.complaints().len(), 1);
        let mut r = report();
        r.act.mismatches = 1;
        assert_eq!(r.complaints().len(), 1);
        let mut r = report();
        r.act.phases[0].verified_bytes = 0;
        assert_eq!(r.complaints().len(), 1);
    }

    #[test]
    fn success_needs_a_block_that_went_offline() {
        let mut r = report();
        r.act.offlined_blocks = 0;
        assert_eq!(r.complaints(), ["no memory block went offline"]);
    }

    #[test]
    fn success_needs_pages_that_each_phase_moved_itself() {
        let mut r = report();
        r.act.phases[0].moved_by_itself = 0;
        assert_eq!(r.complaints(), ["phase offline moved no page"]);
    }

    #[test]
    fn a_complaint_of_a_phase_counts_and_a_note_does_not() {
        let mut r = report();
        r.act.phases[0].notes.push("one node only".into());
        assert!(r.complaints().is_empty());
        r.act.phases[0].complaints.push("no CMA area".into());
        assert_eq!(r.complaints(), ["offline: no CMA area"]);
    }

    #[test]
    fn the_file_has_the_agreed_names() {
        let json = serde_json::to_value(report()).unwrap();
        for key in [
            "backend",
            "relocated_pages",
            "relocated_bytes",
            "verified_bytes",
            "mismatches",
            "offlined_blocks",
            "refused_blocks",
            "refused",
            "phases",
            "kernel_reports",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert!(json["kernel_reports"].is_null());
        assert!(json.get("tdx").is_none());
    }

    #[test]
    fn the_second_act_counts_as_much_as_the_first() {
        let mut r = report();
        let counters = Counters {
            moved: 20_000,
            injected_faults: 1,
            rollbacks: 1,
            succeeded: BTreeMap::from([("TDH.MEM.PAGE.RELOCATE".into(), 20_000)]),
            ..Counters::default()
        };
        r.tdx = Some(TdxAct {
            act: act(),
            counters,
        });
        assert!(r.complaints().is_empty());
        let json = serde_json::to_value(&r).unwrap();
        for key in [
            "relocated_pages",
            "seamcalls",
            "kicks",
            "mismatches",
            "injected_faults",
            "rollbacks",
            "leaked_pages",
        ] {
            assert!(json["tdx"].get(key).is_some(), "{key}");
        }
        r.tdx.as_mut().unwrap().act.mismatches = 1;
        r.tdx.as_mut().unwrap().act.offlined_blocks = 0;
        assert_eq!(r.complaints().len(), 2);
    }
}
