// SPDX-License-Identifier: GPL-2.0
//! The recorded answers of the published module, replayed.

use std::fs::File;
use std::io::BufReader;

use tdx_emu_replay::{Options, Replayer};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/sample.jsonl");

fn replay(options: Options) -> Replayer {
    let mut r = Replayer::new(options);
    let file = BufReader::new(File::open(SAMPLE).expect("the sample is in the tree"));
    r.file("sample.jsonl", file)
        .expect("the sample is well formed");
    r
}

#[test]
fn sample_replays_without_a_difference() {
    let r = replay(Options::default());
    assert_eq!(
        r.report.summary(),
        "467 passed, 0 failed, 0 skipped",
        "{:#?}",
        r.report.messages
    );
}

/// With encryption only the content of pages nobody initialised can differ:
/// MEM.RD and MEM.WR read it back in R8. Nothing else may.
#[test]
fn encryption_changes_nothing_but_leftovers() {
    let r = replay(Options { cipher: true });
    for m in &r.report.messages {
        let leftover =
            m.contains(": r8: ") && (m.contains(" TDH.MEM.RD") || m.contains(" TDH.MEM.WR"));
        assert!(leftover, "{m}");
    }
    assert_eq!(r.report.skipped, 0);
}
