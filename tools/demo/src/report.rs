// SPDX-License-Identifier: GPL-2.0
//! What is left of a demonstration: a JSON file and a verdict.

use std::collections::BTreeMap;

use serde::Serialize;

/// One phase.
#[derive(Debug, Serialize)]
pub struct Phase {
    /// Short name.
    pub name: String,
    /// Pages moved in it.
    pub relocated_pages: u64,
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
}

/// The whole demonstration.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What moves content.
    pub backend: &'static str,
    /// Pages of private memory.
    pub guest_pages: u64,
    /// Relocations done.
    pub relocated_pages: u64,
    /// Relocations asked for.
    pub target: u64,
    /// Bytes the guest verified.
    pub verified_bytes: u64,
    /// Cells the guest found wrong.
    pub mismatches: u64,
    /// Times a memory block with guest pages was taken offline.
    pub offlined_blocks: u64,
    /// Relocations refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// The phases.
    pub phases: Vec<Phase>,
    /// Whoever reads the kernel log fills this in.
    pub kernel_reports: Option<u64>,
}

impl Report {
    /// Everything that speaks against success.
    pub fn complaints(&self) -> Vec<String> {
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
        for phase in self.phases.iter().filter(|p| p.verified_bytes == 0) {
            all.push(format!(
                "the guest made no progress in phase {}",
                phase.name
            ));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            backend: "software",
            guest_pages: 1,
            relocated_pages: 20_000,
            target: 20_000,
            verified_bytes: 1,
            mismatches: 0,
            offlined_blocks: 1,
            refused: BTreeMap::new(),
            phases: vec![Phase {
                name: "offline".into(),
                relocated_pages: 20_000,
                verified_bytes: 1,
                mismatches: 0,
                milliseconds: 1,
                blocks_before: BTreeMap::new(),
                blocks_after: BTreeMap::new(),
                notes: Vec::new(),
            }],
            kernel_reports: None,
        }
    }

    #[test]
    fn success_needs_relocations_content_and_progress() {
        assert!(report().complaints().is_empty());
        let mut r = report();
        r.relocated_pages = 19_999;
        assert_eq!(r.complaints().len(), 1);
        let mut r = report();
        r.mismatches = 1;
        assert_eq!(r.complaints().len(), 1);
        let mut r = report();
        r.phases[0].verified_bytes = 0;
        assert_eq!(r.complaints().len(), 1);
    }

    #[test]
    fn the_file_has_the_agreed_names() {
        let json = serde_json::to_value(report()).unwrap();
        for key in [
            "backend",
            "relocated_pages",
            "verified_bytes",
            "mismatches",
            "offlined_blocks",
            "refused",
            "phases",
            "kernel_reports",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert!(json["kernel_reports"].is_null());
    }
}
