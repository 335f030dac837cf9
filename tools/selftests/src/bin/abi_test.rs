// SPDX-License-Identifier: GPL-2.0
//! Every request with every argument it must take or refuse.

use std::ffi::c_void;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use privmemfd_ioctls::uapi::*;
use privmemfd_ioctls::{sys, Mobility, Options, PrivMemFd, Zone};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use selftests::cases;
use selftests::fixtures::{device, fails, file, movable, without_descriptors, MIB, PAGE};
use selftests::ktap;

const MOVABLE: u64 = PRIVMEMFD_MOVABLE as u64;
const PINNED: u64 = PRIVMEMFD_PINNED as u64;
const CLOEXEC: u64 = PRIVMEMFD_CLOEXEC as u64;

fn create_arg() -> privmemfd_create {
    privmemfd_create {
        size: MIB,
        flags: MOVABLE,
        node: PRIVMEMFD_NODE_ANY,
        ..Default::default()
    }
}

fn stat_arg() -> privmemfd_stat {
    privmemfd_stat {
        node: PRIVMEMFD_NODE_ANY,
        ..Default::default()
    }
}

fn move_arg() -> privmemfd_move {
    privmemfd_move {
        len: MIB,
        node: PRIVMEMFD_NODE_ANY,
        ..Default::default()
    }
}

fn refuse_create(what: &str, change: impl FnOnce(&mut privmemfd_create)) {
    let mut arg = create_arg();
    change(&mut arg);
    fails(sys::create(device().as_fd(), &arg), libc::EINVAL, what);
}

fn create_takes_movable_or_pinned() {
    for flags in [MOVABLE, PINNED, MOVABLE | CLOEXEC, PINNED | CLOEXEC] {
        let arg = privmemfd_create {
            flags,
            ..create_arg()
        };
        let fd = PrivMemFd::from(sys::create(device().as_fd(), &arg).unwrap());
        let stat = fd.stat().unwrap();
        assert_eq!(stat.size, MIB);
        // CLOEXEC belongs to the descriptor, not to the file.
        assert_eq!(stat.flags & !CLOEXEC, flags & !CLOEXEC);
    }
}

fn create_refuses_sizes() {
    for size in [
        0,
        1,
        PAGE - 1,
        PAGE + 1,
        MIB + 512,
        1 << 63,
        u64::MAX,
        !(PAGE - 1),
    ] {
        refuse_create(&format!("size {size:#x}"), |a| a.size = size);
    }
}

fn create_refuses_flags() {
    refuse_create("neither movable nor pinned", |a| a.flags = 0);
    refuse_create("cloexec alone", |a| a.flags = CLOEXEC);
    refuse_create("movable and pinned", |a| a.flags = MOVABLE | PINNED);
    for bit in 3..64 {
        refuse_create(&format!("flag bit {bit}"), |a| a.flags |= 1 << bit);
    }
}

fn create_refuses_nodes() {
    for node in [-2, i32::MIN, 1023, 1024, i32::MAX] {
        refuse_create(&format!("node {node}"), |a| a.node = node);
    }
}

fn create_takes_an_online_node() {
    let fd = device()
        .create(MIB, Options::new(Mobility::Movable).node(0))
        .unwrap();
    fd.allocate(0..MIB).unwrap();
    assert_eq!(fd.stat_node(0).unwrap().pages, MIB / PAGE);
}

fn create_refuses_reserved_fields() {
    for bit in [0, 31] {
        refuse_create("pad", |a| a.pad = 1 << bit);
    }
    for i in 0..4 {
        for bit in [0, 63] {
            refuse_create(&format!("reserved[{i}]"), |a| a.reserved[i] = 1 << bit);
        }
    }
}

fn descriptor_flags(fd: &PrivMemFd) -> rustix::io::FdFlags {
    rustix::io::fcntl_getfd(fd).unwrap()
}

fn cloexec_is_as_asked() {
    let open = Options::new(Mobility::Movable).inherit();
    let keep = device().create(MIB, open).unwrap();
    assert!(!descriptor_flags(&keep).contains(rustix::io::FdFlags::CLOEXEC));
    let close = movable(MIB);
    assert!(descriptor_flags(&close).contains(rustix::io::FdFlags::CLOEXEC));
}

fn a_full_descriptor_table_gives_emfile() {
    let device = device();
    let result = without_descriptors(|| sys::create(device.as_fd(), &create_arg()));
    fails(result, libc::EMFILE, "descriptor table full");
}

fn every_request(fd: BorrowedFd<'_>, wanted: &[u32], other: i32) {
    let mut buffer = [0u64; 64];
    for number in 0..=255u32 {
        for direction in 0..4u32 {
            for size in [0u32, 8, 56, 64, 256] {
                let request = direction << 30 | size << 16 | PRIVMEMFD_IOC << 8 | number;
                if wanted.contains(&request) {
                    continue;
                }
                // SAFETY: no request writes more than 512 bytes, and no known
                // one with pointers is tried.
                let r = unsafe { sys::raw(fd, request, buffer.as_mut_ptr().cast()) };
                fails(r, other, &format!("request {request:#x}"));
            }
        }
    }
}

fn unknown_requests_give_enotty() {
    every_request(device().as_fd(), &[sys::CREATE], libc::ENOTTY);
    let known = [sys::STAT, sys::PAGES, sys::MOVE];
    every_request(movable(PAGE).as_fd(), &known, libc::ENOTTY);
}

fn requests_of_the_other_file_give_enotty() {
    fails(
        sys::stat(device().as_fd(), &mut stat_arg()),
        libc::ENOTTY,
        "STAT on the device",
    );
    fails(
        sys::create(movable(PAGE).as_fd(), &create_arg()),
        libc::ENOTTY,
        "CREATE on a privmemfd",
    );
}

fn unreadable_arguments_give_efault() {
    let (device, fd) = (device(), movable(PAGE));
    let bad = [
        std::ptr::null_mut::<c_void>(),
        0x10 as *mut c_void,
        usize::MAX as *mut c_void,
    ];
    for at in bad {
        let all = [
            (device.as_fd(), sys::CREATE),
            (fd.as_fd(), sys::STAT),
            (fd.as_fd(), sys::PAGES),
            (fd.as_fd(), sys::MOVE),
        ];
        for (on, request) in all {
            // SAFETY: nothing is mapped at these addresses.
            let r = unsafe { sys::raw(on, request, at) };
            fails(r, libc::EFAULT, &format!("request {request:#x} at {at:?}"));
        }
    }
}

/// What can be read but not written takes no answer.
fn read_only_arguments_give_efault() {
    let fd = movable(PAGE);
    // SAFETY: a new mapping in a place of the kernel's choice.
    let page = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            PAGE as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
        .unwrap()
    };
    let protect = |flags| {
        // SAFETY: nothing refers to the page while its protection changes.
        unsafe { rustix::mm::mprotect(page, PAGE as usize, flags).unwrap() };
    };
    let answers = |what: &str, request| {
        // SAFETY: the page has room for every argument.
        let ask = || unsafe { sys::raw(fd.as_fd(), request, page) };
        protect(MprotectFlags::READ);
        fails(ask(), libc::EFAULT, &format!("{what} in a read-only page"));
        protect(MprotectFlags::READ | MprotectFlags::WRITE);
        ask().unwrap_or_else(|e| panic!("{what} in a writable page: {e}"));
    };
    // SAFETY: the page is ours, writable here, and has room for it.
    unsafe { page.cast::<privmemfd_stat>().write(stat_arg()) };
    answers("STAT", sys::STAT);
    let whole = privmemfd_move {
        len: PAGE,
        ..move_arg()
    };
    // SAFETY: as above.
    unsafe { page.cast::<privmemfd_move>().write(whole) };
    answers("MOVE", sys::MOVE);

    let mut pfns = privmemfd_pages {
        len: PAGE,
        pfns: page as u64,
        ..Default::default()
    };
    let pages = std::ptr::from_mut(&mut pfns).cast();
    // SAFETY: the argument and the array are ours.
    let ask = || unsafe { sys::raw(fd.as_fd(), sys::PAGES, pages) };
    protect(MprotectFlags::READ);
    fails(ask(), libc::EFAULT, "PAGES into a read-only page");
    protect(MprotectFlags::READ | MprotectFlags::WRITE);
    ask().unwrap();
    // SAFETY: nothing refers to it.
    unsafe { rustix::mm::munmap(page, PAGE as usize).unwrap() };
}

fn stat_of_an_empty_file_is_empty() {
    let s = movable(MIB).stat().unwrap();
    assert_eq!((s.size, s.pages, s.poisoned), (MIB, 0, 0));
    assert_eq!((s.vms, s.slots, s.relocated), (0, 0, 0));
    assert_eq!(s.zone_pages, [0; 8]);
    assert_eq!(s.refused, [0; 8]);
    assert_eq!(s.mobility(), Some(Mobility::Movable));
    assert_eq!(
        file(PAGE, Mobility::Pinned).stat().unwrap().mobility(),
        Some(Mobility::Pinned)
    );
}

fn stat_counts_by_node_and_zone() {
    let fd = movable(4 * MIB);
    fd.allocate(MIB..3 * MIB).unwrap();
    let s = fd.stat().unwrap();
    assert_eq!(s.pages, 2 * MIB / PAGE);
    assert_eq!(s.zone_pages.iter().sum::<u64>(), s.pages);
    assert_eq!(Zone::ALL.map(|z| s.in_zone(z)).iter().sum::<u64>(), s.pages);
    let nodes = privmemctl::memory::MemoryMap::read().unwrap().nodes();
    let sum: u64 = nodes.iter().map(|n| fd.stat_node(*n).unwrap().pages).sum();
    assert_eq!(sum, s.pages, "nodes {nodes:?}");
}

fn refuse_stat(what: &str, change: impl FnOnce(&mut privmemfd_stat)) {
    let mut arg = stat_arg();
    change(&mut arg);
    fails(
        sys::stat(movable(PAGE).as_fd(), &mut arg),
        libc::EINVAL,
        what,
    );
}

fn stat_refuses_what_it_does_not_know() {
    for node in [-2, i32::MIN, 1024, i32::MAX] {
        refuse_stat(&format!("node {node}"), |a| a.node = node);
    }
    refuse_stat("pad", |a| a.pad = 1);
    for i in 0..4 {
        refuse_stat(&format!("reserved[{i}]"), |a| a.reserved[i] = 1 << 63);
    }
}

fn stat_takes_any_content_in_out_fields() {
    let mut arg = stat_arg();
    (arg.flags, arg.size, arg.pages) = (u64::MAX, u64::MAX, u64::MAX);
    (arg.zone_pages, arg.refused) = ([u64::MAX; 8], [u64::MAX; 8]);
    sys::stat(movable(MIB).as_fd(), &mut arg).unwrap();
    assert_eq!((arg.size, arg.pages, arg.zone_pages), (MIB, 0, [0; 8]));
}

fn pages_tells_memory_from_none() {
    let fd = movable(8 * PAGE);
    fd.allocate(2 * PAGE..4 * PAGE).unwrap();
    let pages = fd.pages(0..8 * PAGE).unwrap();
    let there: Vec<bool> = pages.iter().map(Option::is_some).collect();
    assert_eq!(
        there,
        [false, false, true, true, false, false, false, false]
    );
    assert_ne!(pages[2], pages[3]);
    assert_eq!(fd.pages(3 * PAGE..4 * PAGE).unwrap(), [pages[3]]);
}

fn pages_refuses_ranges() {
    let fd = movable(8 * PAGE);
    let mut pfns = vec![0; 64];
    let bad = [
        (1, PAGE),
        (0, 1),
        (PAGE / 2, PAGE),
        (0, PAGE + 8),
        (0, 9 * PAGE),
        (8 * PAGE, PAGE),
        (1 << 63, PAGE),
        (u64::MAX - PAGE + 1, PAGE),
        (!(PAGE - 1), 2 * PAGE),
    ];
    for (offset, len) in bad {
        let r = sys::pages(fd.as_fd(), offset, len, &mut pfns);
        fails(r, libc::EINVAL, &format!("{offset:#x}+{len:#x}"));
    }
    for i in 0..4 {
        let mut arg = privmemfd_pages {
            len: PAGE,
            pfns: pfns.as_mut_ptr() as u64,
            ..Default::default()
        };
        arg.reserved[i] = 1;
        // SAFETY: the array has room for the one page.
        let r = unsafe { sys::pages_at(fd.as_fd(), &arg) };
        fails(r, libc::EINVAL, &format!("reserved[{i}]"));
    }
}

fn pages_needs_a_writable_array() {
    let fd = movable(8 * PAGE);
    for at in [0, 0x1000, u64::MAX - 7] {
        let arg = privmemfd_pages {
            len: PAGE,
            pfns: at,
            ..Default::default()
        };
        // SAFETY: nothing is mapped there.
        let r = unsafe { sys::pages_at(fd.as_fd(), &arg) };
        fails(r, libc::EFAULT, &format!("array at {at:#x}"));
    }
}

fn pages_needs_cap_sys_admin() {
    use rustix::thread::{capabilities, set_capabilities, CapabilitySet};
    let fd = movable(PAGE);
    let result = std::thread::scope(|s| {
        // Capabilities belong to the thread.
        s.spawn(|| {
            let mut mine = capabilities(None).unwrap();
            if !mine.effective.contains(CapabilitySet::SYS_ADMIN) {
                return None;
            }
            mine.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, mine).unwrap();
            Some(fd.pages(0..PAGE))
        })
        .join()
        .unwrap()
    });
    match result {
        Some(r) => fails(r, libc::EPERM, "without CAP_SYS_ADMIN"),
        None => ktap::skip("not root"),
    }
}

fn move_refuses_what_it_does_not_know() {
    let fd = movable(MIB);
    let refuse = |what: &str, change: &dyn Fn(&mut privmemfd_move)| {
        let mut arg = move_arg();
        change(&mut arg);
        fails(sys::move_pages(fd.as_fd(), &mut arg), libc::EINVAL, what);
    };
    for (offset, len) in [
        (1, PAGE),
        (0, 1),
        (0, MIB + PAGE),
        (MIB, PAGE),
        (!(PAGE - 1), 2 * PAGE),
    ] {
        refuse(&format!("{offset:#x}+{len:#x}"), &|a| {
            (a.offset, a.len) = (offset, len);
        });
    }
    for node in [-2, i32::MIN, 1024, i32::MAX] {
        refuse(&format!("node {node}"), &|a| a.node = node);
    }
    for bit in 1..32 {
        refuse(&format!("flag bit {bit}"), &|a| a.flags = 1 << bit);
        refuse(&format!("STATUS and flag bit {bit}"), &|a| {
            a.flags = PRIVMEMFD_MOVE_STATUS | 1 << bit;
        });
    }
    for i in 0..3 {
        refuse(&format!("reserved[{i}]"), &|a| a.reserved[i] = 1);
    }
    let mut statuses = [7; (MIB / PAGE) as usize];
    let mut arg = privmemfd_move {
        status: statuses.as_mut_ptr() as u64,
        ..move_arg()
    };
    // SAFETY: the array is as long as the range.
    let r = unsafe { sys::move_at(fd.as_fd(), &mut arg) };
    fails(r, libc::EINVAL, "an array without its flag");
    assert!(statuses.iter().all(|s| *s == 7), "it was written");
}

fn move_of_nothing_moves_nothing() {
    let fd = movable(MIB);
    assert_eq!(fd.move_range(0..MIB, None).unwrap(), 0);
    let mut arg = move_arg();
    arg.moved = 77;
    sys::move_pages(fd.as_fd(), &mut arg).unwrap();
    assert_eq!(arg.moved, 0, "moved is output");
}

fn move_counts_what_moved() {
    let fd = movable(MIB);
    fd.allocate(0..MIB / 2).unwrap();
    let before = fd.pages(0..MIB / 2).unwrap();
    assert_eq!(fd.move_range(0..MIB, None).unwrap(), MIB / 2 / PAGE);
    assert_eq!(fd.stat().unwrap().relocated, MIB / 2 / PAGE);
    let after = fd.pages(0..MIB / 2).unwrap();
    let still = before.iter().zip(&after).filter(|(a, b)| a == b).count();
    assert_eq!(still, 0, "pages that did not move");
}

fn the_link_has_its_name() {
    let fd = movable(PAGE);
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    let link = fs::read_link(format!("/proc/self/fd/{raw}")).unwrap();
    assert_eq!(link.to_string_lossy(), privmemfd_ioctls::LINK);
}

fn main() -> ExitCode {
    ktap::main(cases![
        "CREATE takes movable or pinned, with or without cloexec" => create_takes_movable_or_pinned,
        "CREATE refuses sizes that are 0, unaligned or negative" => create_refuses_sizes,
        "CREATE refuses every flag bit it does not know" => create_refuses_flags,
        "CREATE refuses nodes that are not online" => create_refuses_nodes,
        "CREATE takes pages from the node it was given" => create_takes_an_online_node,
        "CREATE refuses each reserved field" => create_refuses_reserved_fields,
        "CLOEXEC is set only if asked for" => cloexec_is_as_asked,
        "CREATE with a full descriptor table gives EMFILE" => a_full_descriptor_table_gives_emfile,
        "unknown requests give ENOTTY" => unknown_requests_give_enotty,
        "requests on the wrong file give ENOTTY" => requests_of_the_other_file_give_enotty,
        "unreadable arguments give EFAULT" => unreadable_arguments_give_efault,
        "arguments that cannot be written give EFAULT" => read_only_arguments_give_efault,
        "STAT of an empty file is empty" => stat_of_an_empty_file_is_empty,
        "STAT counts pages by node and zone" => stat_counts_by_node_and_zone,
        "STAT refuses what it does not know" => stat_refuses_what_it_does_not_know,
        "STAT takes any content in output fields" => stat_takes_any_content_in_out_fields,
        "PAGES tells pages with memory from pages without" => pages_tells_memory_from_none,
        "PAGES refuses bad ranges and reserved fields" => pages_refuses_ranges,
        "PAGES needs a writable array" => pages_needs_a_writable_array,
        "PAGES needs CAP_SYS_ADMIN" => pages_needs_cap_sys_admin,
        "MOVE refuses what it does not know" => move_refuses_what_it_does_not_know,
        "MOVE of pages without memory moves nothing" => move_of_nothing_moves_nothing,
        "MOVE counts what it moved and moves every page" => move_counts_what_moved,
        "the link in /proc has its name" => the_link_has_its_name,
    ])
}
