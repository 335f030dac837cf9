// SPDX-License-Identifier: GPL-2.0
//! Memory that fails, or is about to, below a guest. A memory block with a page
//! that has failed does not come back online: run this last.

use std::fs;
use std::io;
use std::process::ExitCode;

use selftests::cases;
use selftests::fixtures::{done, fails, movable, Guest, MIB, PAGE};
use selftests::ktap::{self, note, skip};
use vmm::layout::PRIVATE_BASE as BASE;
use vmm::Exit;

/// Takes a page offline: "hard" as one that has failed, "soft" as one that will.
fn offline(action: &str, pfn: u64) -> io::Result<()> {
    let path = format!("/sys/devices/system/memory/{action}_offline_page");
    if !std::path::Path::new(&path).exists() {
        skip("no memory failure handling in this kernel");
    }
    fs::write(path, format!("{:#x}", pfn * PAGE))
}

fn failing_memory_reaches_the_vmm() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let bad = fd.pages(5 * PAGE..6 * PAGE).unwrap()[0].unwrap();
    // The kernel says EBUSY when the page stays in its file, as it must.
    note(format!("hard offline: {:?}", offline("hard", bad)));
    for _ in 0..2 {
        match guest.read(BASE + 5 * PAGE) {
            Exit::MemoryFault {
                gpa,
                private,
                errno,
                ..
            } => {
                assert_eq!(
                    (gpa, private, errno),
                    (BASE + 5 * PAGE, true, libc::EHWPOISON)
                );
            }
            other => panic!("access to failed memory: {other:?}"),
        }
    }
    let s = fd.stat().unwrap();
    assert_eq!(s.poisoned, 1);
    fails(fd.allocate(0..MIB), libc::EHWPOISON, "fallocate");
    // The others are as before, and can move.
    assert_ne!(done(guest.read(BASE + 4 * PAGE)), 0);
    assert_eq!(fd.move_range(0..MIB, None).unwrap(), MIB / PAGE - 1);
    assert_ne!(done(guest.read(BASE + 6 * PAGE)), 0);
    // Punching the hole gives a good page.
    fd.punch_hole(5 * PAGE..6 * PAGE).unwrap();
    assert_eq!(done(guest.read(BASE + 5 * PAGE)), 0);
    assert_eq!(fd.stat().unwrap().poisoned, 0);
}

fn soft_offline_moves_the_page() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    for page in [0, 7, 255] {
        let range = page * PAGE..(page + 1) * PAGE;
        let old = fd.pages(range.clone()).unwrap()[0].unwrap();
        offline("soft", old).unwrap();
        let new = fd.pages(range).unwrap()[0].unwrap();
        assert_ne!(old, new);
    }
    guest.verify();
    let s = fd.stat().unwrap();
    assert_eq!((s.poisoned, s.pages, s.relocated), (0, MIB / PAGE, 3));
}

fn main() -> ExitCode {
    ktap::main(cases![
        "failing memory reaches the VMM as EHWPOISON" => failing_memory_reaches_the_vmm,
        "soft offline moves the page and keeps its content" => soft_offline_moves_the_page,
    ])
}
