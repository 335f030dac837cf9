// SPDX-License-Identifier: GPL-2.0
//! What root reads of a software-protected VM's memory in `/proc/kcore`, as
//! userspace-api.rst says it: its content, but only where it is.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use selftests::cases;
use selftests::fixtures::{movable, Guest, MIB, PAGE};
use selftests::ktap::{self, skip};

/// The kernel's memory by physical address.
struct Kcore {
    file: File,
    /// Physical address, size, place in the file.
    segments: Vec<(u64, u64, u64)>,
}

impl Kcore {
    fn open() -> Self {
        let Ok(file) = File::open("/proc/kcore") else {
            skip("no /proc/kcore for us");
        };
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0).unwrap();
        let half = |at: usize| u16::from_ne_bytes(header[at..at + 2].try_into().unwrap());
        let (size, count) = (u64::from(half(54)), u64::from(half(56)));
        let segments = (0..count)
            .filter_map(|i| {
                let mut segment = [0; 56];
                file.read_exact_at(&mut segment, 64 + i * size).unwrap();
                let word = |at: usize| u64::from_ne_bytes(segment[at..at + 8].try_into().unwrap());
                const LOAD: u32 = 1;
                let kind = u32::from_ne_bytes(segment[..4].try_into().unwrap());
                let at = word(24);
                (kind == LOAD && at != u64::MAX).then(|| (at, word(32), word(8)))
            })
            .collect();
        Self { file, segments }
    }

    /// The first words of a page.
    fn read(&self, pfn: u64) -> [u8; 64] {
        let at = pfn * PAGE;
        let (start, _, place) = self
            .segments
            .iter()
            .find(|(start, size, _)| (*start..start + size).contains(&at))
            .expect("all memory is in it");
        let mut bytes = [0; 64];
        self.file
            .read_exact_at(&mut bytes, place + at - start)
            .unwrap();
        bytes
    }
}

fn content_is_there_and_nowhere_else() {
    const VALUE: u64 = 0x5ec2_e75e_c2e7_5ec2;
    let kcore = Kcore::open();
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    let sees = |pfn: u64| kcore.read(pfn)[..8] == VALUE.to_ne_bytes();
    let place = || fd.pages(0..PAGE).unwrap()[0].unwrap();
    guest.write(guest.page(0), VALUE);
    let first = place();
    assert!(
        sees(first),
        "root cannot read the guest's page: the documentation says so"
    );
    fd.move_range(0..PAGE, None).unwrap();
    let second = place();
    assert_ne!(first, second);
    assert!(
        sees(second) && !sees(first),
        "content stays where a page was"
    );
    fd.punch_hole(0..PAGE).unwrap();
    assert!(!sees(second), "content stays behind a hole");
}

fn main() -> ExitCode {
    ktap::main(cases![
        "/proc/kcore shows the content of a software-protected VM where it is, and not where it was" => content_is_there_and_nowhere_else,
    ])
}
