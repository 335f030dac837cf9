// SPDX-License-Identifier: GPL-2.0
//! Random calls and guest events on a world with a running TD: the module
//! never dies, no lock stays behind, and no frame is in two leaves.
#![no_main]

use std::cell::OnceCell;
use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use tdx_emu_model::{sept, GuestEvent, Outcome, Regs};
use tdx_emu_replay::world::World;
use tdx_emu_replay::{Options, Replayer};

const TDR: u64 = 0x4000_0000;
const SAMPLE: &str = include_str!("../../replay/vectors/sample.jsonl");

/// Operands worth trying; everything else is in the input itself.
const WORDS: [u64; 16] = [
    TDR,
    0x4008_0000,
    0x4004_0000,
    0x4005_0000,
    0x4020_0000,
    0x4021_0000,
    0x4022_0000,
    0x4040_0000,
    0x4060_0000,
    0,
    0xC000,
    0x8000,
    0x40_0001,
    0x60_0001,
    0x1,
    u64::MAX,
];

thread_local! {
    static BASE: OnceCell<World> = const { OnceCell::new() };
}

/// The world after the first recorded prelude.
fn base() -> World {
    BASE.with(|b| {
        b.get_or_init(|| {
            let mut r = Replayer::new(Options::default());
            let end = SAMPLE
                .find("\"seq\":\"W2\"")
                .map_or(SAMPLE.len(), |i| SAMPLE[..i].rfind('\n').unwrap_or(0));
            r.file("W1", SAMPLE[..end].as_bytes()).expect("well formed");
            r.prelude("W1").expect("W1 passes")
        })
        .clone()
    })
}

fn word(b: &[u8]) -> u64 {
    match b[0] {
        i @ 0..=0x7F => WORDS[usize::from(i & 15)] ^ u64::from(b[1]) << 12,
        i @ 0x80..=0xDF => WORDS[usize::from(i & 15)],
        _ => u64::from_le_bytes([b[0], b[1], b[2], b[0], b[1], b[2], b[0], b[1]]),
    }
}

fuzz_target!(|data: &[u8]| {
    let w = base();
    let m = &w.module;
    for c in data.chunks_exact(14) {
        let lp = usize::from(c[0] & 7);
        if m.in_guest(lp).is_some() {
            let gpa = word(&c[2..5]);
            let event = match c[1] & 3 {
                0 => GuestEvent::Interrupt {
                    rip_adv: c[1].into(),
                },
                1 => GuestEvent::Accept { gpa },
                2 => GuestEvent::EptViolation {
                    gpa,
                    qual: 2,
                    rip_adv: 0,
                },
                _ => GuestEvent::Read { gpa },
            };
            m.guest_event(lp, event);
            continue;
        }
        let mut r = Regs {
            rax: u64::from(c[1]) & 0x3F | u64::from(c[0] >> 7) << 16,
            rcx: word(&c[2..5]),
            rdx: word(&c[5..8]),
            r8: word(&c[8..11]),
            r9: word(&c[11..14]),
            r10: u64::MAX,
            r11: u64::MAX,
            ..Regs::default()
        };
        let before = r;
        assert_ne!(
            m.seamcall(lp, &mut r),
            Outcome::VmFailInvalid,
            "{before:x?}"
        );
        assert!(m.quiescent());
    }
    let mut seen = BTreeSet::new();
    for tdr in [TDR, 0x4008_0000] {
        if m.pamt_view(tdr, 0).is_some_and(|e| e.pt == 4) && m.td_view(tdr).lifecycle == 1 {
            for gpa in (0..0x20_0000).step_by(4096) {
                let (raw, level) = m.sept_view(tdr, gpa, 0);
                if level == 0 && sept::is_leaf(raw) {
                    assert!(seen.insert(sept::leaf_hpa(raw, gpa, 0)));
                }
            }
        }
    }
});
