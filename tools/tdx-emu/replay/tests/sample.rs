// SPDX-License-Identifier: GPL-2.0
//! The recorded answers of the published module, replayed.

use std::fs::File;
use std::io::BufReader;

use tdx_emu_model::regs::leaf;
use tdx_emu_model::Regs;
use tdx_emu_replay::world::World;
use tdx_emu_replay::{Options, Replayer};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors");

fn add(r: &mut Replayer, name: &str) {
    let path = format!("{VECTORS}/{name}");
    let file = BufReader::new(File::open(path).expect("the recording is in the tree"));
    r.file(name, file).expect("the recording is well formed");
}

fn replay(options: Options) -> Replayer {
    let mut r = Replayer::new(options);
    add(&mut r, "sample.jsonl");
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

/// Leaves, states and faults that the sample leaves out. It starts from the
/// sample's preludes.
#[test]
fn more_recordings_replay_without_a_difference() {
    let mut r = replay(Options::default());
    add(&mut r, "extended.jsonl");
    assert_eq!(
        r.report.summary(),
        "1137 passed, 0 failed, 0 skipped",
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

/// The model's own call log is a recording.
#[test]
fn own_log_replays() {
    let w = World::initial(false);
    w.module.machine.record(true);
    let tdr = 0x4000_0000;
    for regs in [
        Regs::call(leaf::MNG_CREATE, tdr, 33),
        Regs::call(leaf::MNG_CREATE, tdr, 33),
        Regs::call(leaf::MNG_KEY_CONFIG, tdr, 0),
        Regs::call(leaf::MNG_ADDCX, tdr + 0x1000, tdr),
        Regs::call(leaf::MEM_TRACK, tdr, 0),
        Regs::call(69, 1, 2),
        Regs::call3(leaf::MEM_PAGE_RELOCATE, 0, tdr, 0x4020_0000),
        Regs::call(leaf::PHYMEM_PAGE_RDMD, tdr, 0),
    ] {
        w.module.seamcall(0, &mut regs.clone());
    }
    let mut text = String::from("{\"seq\":\"own\"}\n");
    for (n, r) in w.module.machine.record(false).iter().enumerate() {
        r.write(&mut text, "own", n as u64)
            .expect("a string takes it");
        text.push('\n');
    }
    assert_eq!(text.lines().count(), 9);
    let mut r = Replayer::new(Options::default());
    r.file("own", text.as_bytes()).expect("well formed");
    assert_eq!(
        r.report.summary(),
        "1 passed, 0 failed, 0 skipped",
        "{:?}",
        r.report.messages
    );
    // One digit changed is one failure.
    let wrong = text.replacen("0x4", "0x5", 3);
    r.file("wrong", wrong.as_bytes()).expect("well formed");
    assert_eq!(r.report.summary(), "1 passed, 1 failed, 0 skipped");
    // Something unknown is skipped, not passed.
    let unknown = "{\"seq\":\"u\",\"uses\":[\"MAGIC\"]}\n";
    r.file("unknown", unknown.as_bytes()).expect("well formed");
    assert_eq!(r.report.summary(), "1 passed, 1 failed, 1 skipped");
}
