// SPDX-License-Identifier: GPL-2.0
//! What a privmemfd is as a file: nobody gets at its content, its size is
//! fixed, its memory comes and goes by fallocate, it is charged and stays.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use privmemfd_ioctls::{Mobility, PrivMemFd};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::Signal;
use selftests::cases;
use selftests::fixtures::{child, fails, file, movable, role, signal, wait_for, Cgroup, MIB, PAGE};
use selftests::ktap::{self, note};

fn full(size: u64) -> PrivMemFd {
    let fd = movable(size);
    fd.allocate(0..size).unwrap();
    fd
}

fn reads_and_writes_are_refused() {
    let fd = full(MIB);
    let mut buffer = [0u8; 64];
    fails(rustix::io::read(&fd, &mut buffer), libc::EINVAL, "read");
    fails(
        rustix::io::pread(&fd, &mut buffer, 0),
        libc::ESPIPE,
        "pread",
    );
    fails(rustix::io::write(&fd, &buffer), libc::EINVAL, "write");
    fails(rustix::io::pwrite(&fd, &buffer, 0), libc::ESPIPE, "pwrite");
    let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
    fails(rustix::io::readv(&fd, &mut parts), libc::EINVAL, "readv");
    fails(
        rustix::io::preadv(&fd, &mut parts, 0),
        libc::ESPIPE,
        "preadv",
    );
    let out = [std::io::IoSlice::new(b"secret")];
    fails(rustix::io::writev(&fd, &out), libc::EINVAL, "writev");
    fails(rustix::io::pwritev(&fd, &out, 0), libc::ESPIPE, "pwritev");
}

fn no_mapping_of_any_kind() {
    let fd = full(MIB);
    let protections = [
        ProtFlags::empty(),
        ProtFlags::READ,
        ProtFlags::READ | ProtFlags::WRITE,
        ProtFlags::READ | ProtFlags::EXEC,
    ];
    let kinds = [
        MapFlags::SHARED,
        MapFlags::PRIVATE,
        MapFlags::SHARED | MapFlags::POPULATE,
        MapFlags::PRIVATE | MapFlags::LOCKED,
    ];
    for protection in protections {
        // Memory that cannot be mapped is not executable in the first place.
        let errno = if protection.contains(ProtFlags::EXEC) {
            libc::EPERM
        } else {
            libc::ENODEV
        };
        for kind in kinds {
            // SAFETY: a new mapping in a place of the kernel's choice.
            let r = unsafe {
                rustix::mm::mmap(std::ptr::null_mut(), MIB as usize, protection, kind, &fd, 0)
            };
            fails(r, errno, &format!("mmap {protection:?} {kind:?}"));
        }
    }
}

fn no_copying_in_the_kernel() {
    let fd = full(MIB);
    let memfd = rustix::fs::memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memfd, MIB).unwrap();
    let (read_end, write_end) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&write_end, b"bytes").unwrap();
    let flags = rustix::pipe::SpliceFlags::NONBLOCK;
    fails(
        rustix::pipe::splice(&fd, None, &write_end, None, 4096, flags),
        libc::EINVAL,
        "splice out",
    );
    fails(
        rustix::pipe::splice(&read_end, None, &fd, None, 5, flags),
        libc::EINVAL,
        "splice in",
    );
    fails(
        rustix::fs::sendfile(&memfd, &fd, None, 4096),
        libc::EINVAL,
        "sendfile out",
    );
    fails(
        rustix::fs::sendfile(&fd, &memfd, None, 4096),
        libc::EINVAL,
        "sendfile in",
    );
    for (from, to, what) in [
        (fd.as_fd(), memfd.as_fd(), "out"),
        (memfd.as_fd(), fd.as_fd(), "in"),
    ] {
        let r = rustix::fs::copy_file_range(from, None, to, None, 4096);
        fails(r, libc::EXDEV, &format!("copy_file_range {what}"));
    }
    let r = rustix::fs::copy_file_range(&fd, None, movable(MIB), None, 4096);
    fails(r, libc::EINVAL, "copy_file_range between two of ours");
    fails(
        rustix::pipe::splice(&fd, Some(&mut 0), &write_end, None, 4096, flags),
        libc::EINVAL,
        "splice out with an offset",
    );
    fails(
        rustix::pipe::splice(&read_end, None, &fd, Some(&mut 0), 5, flags),
        libc::EINVAL,
        "splice in with an offset",
    );
    let r = rustix::fs::copy_file_range(&fd, Some(&mut 0), movable(MIB), Some(&mut 0), 4096);
    fails(r, libc::EINVAL, "copy_file_range with offsets");
    let r = rustix::fs::sendfile(&memfd, &fd, Some(&mut 0), 4096);
    fails(r, libc::ESPIPE, "sendfile with an offset");
    // The other file got nothing.
    let mut buffer = [1u8; 4096];
    rustix::io::pread(&memfd, &mut buffer, 0).unwrap();
    assert_eq!(buffer, [0; 4096]);
}

fn no_second_open() {
    let fd = full(MIB);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    for flags in [
        OFlags::RDONLY,
        OFlags::WRONLY,
        OFlags::RDWR,
        OFlags::RDONLY | OFlags::TRUNC,
    ] {
        let r = rustix::fs::open(&path, flags, rustix::fs::Mode::empty());
        fails(r, libc::ENXIO, &format!("open {flags:?}"));
    }
}

fn the_size_is_fixed() {
    let fd = movable(MIB);
    for size in [0, PAGE, MIB, 2 * MIB] {
        fails(
            rustix::fs::ftruncate(&fd, size),
            libc::EINVAL,
            &format!("ftruncate {size}"),
        );
    }
    assert_eq!(fd.stat().unwrap().size, MIB);
    let r = rustix::fs::fchmod(&fd, Mode::RWXU);
    fails(r, libc::EINVAL, "fchmod");
    let r = rustix::fs::fchown(&fd, Some(rustix::fs::Uid::ROOT), None);
    fails(r, libc::EINVAL, "fchown");
}

fn there_is_no_file_position() {
    let fd = movable(MIB);
    for seek in [
        SeekFrom::Start(0),
        SeekFrom::End(0),
        SeekFrom::Current(1),
        SeekFrom::Data(0),
        SeekFrom::Hole(0),
    ] {
        let r = rustix::fs::seek(&fd, seek);
        fails(r, libc::ESPIPE, &format!("lseek {seek:?}"));
    }
}

fn fallocate_refuses_other_modes() {
    let fd = movable(MIB);
    let keep = FallocateFlags::KEEP_SIZE;
    let modes = [
        FallocateFlags::empty(),
        FallocateFlags::PUNCH_HOLE,
        FallocateFlags::ZERO_RANGE,
        keep | FallocateFlags::ZERO_RANGE,
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
        keep | FallocateFlags::UNSHARE_RANGE,
    ];
    for mode in modes {
        let r = rustix::fs::fallocate(&fd, mode, 0, PAGE);
        fails(r, libc::EOPNOTSUPP, &format!("fallocate {mode:?}"));
    }
    assert_eq!(fd.stat().unwrap().pages, 0);
}

fn fallocate_refuses_ranges() {
    let fd = movable(MIB);
    for (offset, len) in [(1, PAGE), (0, 1), (PAGE / 2, PAGE), (0, PAGE + 1)] {
        fails(
            fd.allocate(offset..offset + len),
            libc::EINVAL,
            &format!("allocate {offset}+{len}"),
        );
        fails(
            fd.punch_hole(offset..offset + len),
            libc::EINVAL,
            &format!("punch {offset}+{len}"),
        );
    }
    for (offset, len) in [(0, MIB + PAGE), (MIB, PAGE), (MIB - PAGE, 2 * PAGE)] {
        fails(
            fd.allocate(offset..offset + len),
            libc::EINVAL,
            &format!("allocate {offset}+{len}"),
        );
    }
    fails(fd.allocate(0..0), libc::EINVAL, "allocate nothing");
    // As the kernel sees these two, negative and past what any file can have.
    let last = i64::MAX as u64 / PAGE * PAGE;
    let negative = u64::MAX - PAGE + 1..u64::MAX;
    for (range, errno) in [
        (0..0, libc::EINVAL),
        (negative, libc::EINVAL),
        (last..last + PAGE, libc::EFBIG),
    ] {
        fails(
            fd.punch_hole(range.clone()),
            errno,
            &format!("punch {range:x?}"),
        );
    }
    assert_eq!(fd.stat().unwrap().pages, 0);
}

fn fallocate_gives_and_takes_memory() {
    let fd = movable(MIB);
    let blocks = |fd: &PrivMemFd| {
        let s = rustix::fs::fstat(fd).unwrap();
        assert_eq!(s.st_size as u64, MIB);
        s.st_blocks as u64 * 512
    };
    assert_eq!(blocks(&fd), 0);
    fd.allocate(0..MIB / 2).unwrap();
    assert_eq!((fd.stat().unwrap().pages, blocks(&fd)), (128, MIB / 2));
    fd.allocate(0..MIB / 2).unwrap();
    assert_eq!(
        fd.stat().unwrap().pages,
        128,
        "allocating again changes nothing"
    );
    fd.punch_hole(PAGE..3 * PAGE).unwrap();
    assert_eq!((fd.stat().unwrap().pages, blocks(&fd)), (126, 126 * PAGE));
    fd.punch_hole(0..MIB).unwrap();
    assert_eq!((fd.stat().unwrap().pages, blocks(&fd)), (0, 0));
    fd.punch_hole(0..MIB).unwrap();
}

fn fstat_shows_a_regular_file_without_links() {
    let s = rustix::fs::fstat(movable(MIB)).unwrap();
    assert_eq!(s.st_mode & libc::S_IFMT, libc::S_IFREG);
    assert_eq!(s.st_size, MIB as i64);
}

fn memory_is_charged_to_the_cgroup() {
    let group = Cgroup::new("charge", 256 * MIB);
    group.add(std::process::id());
    let fd = movable(32 * MIB);
    let before = group.current();
    fd.allocate(0..32 * MIB).unwrap();
    let charged = group.current().saturating_sub(before);
    assert!(charged >= 31 * MIB, "{charged} bytes charged for 32 MiB");
    fd.move_range(0..32 * MIB, None).unwrap();
    let moved = group.current().saturating_sub(before);
    assert!(
        (31 * MIB..40 * MIB).contains(&moved),
        "{moved} bytes charged after a move"
    );
    fd.punch_hole(0..32 * MIB).unwrap();
    let gone = wait_for(Duration::from_secs(5), || {
        group.current() < before + 2 * MIB
    });
    assert!(
        gone,
        "{} bytes still charged, {before} before",
        group.current()
    );
}

fn the_cgroup_limit_ends_an_allocation() {
    let group = Cgroup::new("limit", 24 * MIB);
    let mut task = child("allocate-in-cgroup", &["256"]);
    group.add(task.id());
    let status = task.wait().unwrap();
    // The out-of-memory killer must not take it: the limit is an error.
    assert_eq!(status.code(), Some(libc::ENOMEM), "ended with {status:?}");
    let gone = wait_for(Duration::from_secs(10), || group.current() < 4 * MIB);
    assert!(gone, "{} bytes still charged", group.current());
}

fn dropping_caches_and_pressure_keep_every_page() {
    let fd = full(32 * MIB);
    let pages = fd.stat().unwrap().pages;
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    fs::write("/proc/sys/vm/compact_memory", "1").unwrap();
    let memory = rustix::fs::memfd_create("pressure", MemfdFlags::CLOEXEC).unwrap();
    let advice = rustix::fs::fadvise(&fd, 0, None, rustix::fs::Advice::DontNeed);
    note(format!("fadvise(DONTNEED): {advice:?}"));
    drop(memory);
    let group = Cgroup::new("pressure", 64 * MIB);
    group.add(std::process::id());
    let inside = full(16 * MIB);
    let reclaim = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().find(|e| {
        let name = e.file_name();
        name.to_string_lossy().starts_with("privmemfd-pressure")
    });
    let path = reclaim.unwrap().path().join("memory.reclaim");
    let r = fs::write(path, (16 * MIB).to_string());
    note(format!("memory.reclaim of 16 MiB: {r:?}"));
    assert_eq!(inside.stat().unwrap().pages, 16 * MIB / PAGE);
    assert_eq!(fd.stat().unwrap().pages, pages);
}

fn ended_by(sig: Signal) {
    // More than there is: only the signal can end it in time.
    let mut task = child("allocate-and-say", &["2048"]);
    std::thread::sleep(Duration::from_millis(150));
    let start = Instant::now();
    signal(&task, sig);
    let mut status = None;
    let ended = wait_for(Duration::from_secs(20), || {
        status = task.try_wait().unwrap();
        status.is_some()
    });
    if !ended {
        // It has all the memory there is, which the cases to come need.
        task.kill().unwrap();
    }
    assert!(ended, "still there 20 s after {sig:?}");
    note(format!(
        "gone {:?} after the signal: {}",
        start.elapsed(),
        status.unwrap()
    ));
    use std::os::unix::process::ExitStatusExt;
    let status = status.unwrap();
    assert_eq!(status.signal(), Some(sig.as_raw()), "{status:?}");
}

fn sigkill_ends_a_long_allocation() {
    ended_by(Signal::KILL);
}

fn sigterm_ends_a_long_allocation() {
    ended_by(Signal::TERM);
}

fn closing_frees_everything() {
    let free = || {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find(|l| l.starts_with("MemFree")).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 1024
    };
    drop(full(4 * MIB));
    let before = free();
    for _ in 0..8 {
        drop(full(32 * MIB));
    }
    let back = wait_for(Duration::from_secs(10), || free() + 64 * MIB > before);
    assert!(
        back,
        "{} MiB fewer after 8 files of 32 MiB",
        (before - free()) / MIB
    );
}

fn pages_are_unevictable_and_counted() {
    let count = || {
        let text = fs::read_to_string("/proc/vmstat").unwrap();
        let line = text
            .lines()
            .find(|l| l.starts_with("nr_file_pages "))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = count();
    let fd = full(64 * MIB);
    assert!(
        count() >= before + 64 * MIB / PAGE - 512,
        "{before} to {}",
        count()
    );
    drop(fd);
}

fn pinned_files_allocate_as_well() {
    let fd = file(8 * MIB, Mobility::Pinned);
    fd.allocate(0..8 * MIB).unwrap();
    assert_eq!(fd.stat().unwrap().pages, 8 * MIB / PAGE);
    fd.punch_hole(0..8 * MIB).unwrap();
    assert_eq!(fd.stat().unwrap().pages, 0);
}

/// Holds an `O_PATH` descriptor of a closed file, which does not keep the
/// module loaded, and looks at it after the module has gone.
fn outlive_the_module() -> ExitCode {
    let fd = movable(MIB);
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let path = rustix::fs::open(link, OFlags::PATH, Mode::empty()).unwrap();
    let size = || rustix::fs::fstat(&path).unwrap().st_size;
    assert_eq!(size(), MIB as i64);
    drop(fd);
    let unloaded = || {
        let modules = fs::read_to_string("/proc/modules").unwrap();
        !modules.lines().any(|l| l.starts_with("privmemfd "))
    };
    if !wait_for(Duration::from_secs(60), unloaded) {
        eprintln!("the module is still loaded");
        return ExitCode::FAILURE;
    }
    for _ in 0..100 {
        assert_eq!(size(), MIB as i64);
    }
    let link = format!("/proc/self/fd/{}", path.as_raw_fd());
    let changed = fs::set_permissions(link, fs::Permissions::from_mode(0o777));
    println!("fstat after unload: {} bytes, chmod: {changed:?}", size());
    ExitCode::SUCCESS
}

fn in_role(role: &str, arguments: &[String]) -> ExitCode {
    if role == "outlive-the-module" {
        return outlive_the_module();
    }
    let size = arguments[0].parse::<u64>().unwrap() * MIB;
    if role == "allocate-in-cgroup" {
        let mine = || fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        wait_for(Duration::from_secs(10), || mine().contains("privmemfd"));
        fs::write("/proc/self/oom_score_adj", "-1000").unwrap();
    }
    let fd = movable(size);
    loop {
        if let Err(e) = fd.allocate(0..size) {
            return ExitCode::from(u8::try_from(e.errno()).unwrap_or(255));
        }
        if role == "allocate-in-cgroup" {
            return ExitCode::SUCCESS;
        }
        fd.punch_hole(0..size).unwrap();
    }
}

fn main() -> ExitCode {
    if let Some((name, arguments)) = role() {
        return in_role(&name, &arguments);
    }
    ktap::main(cases![
        "read and write give EINVAL, with an offset ESPIPE" => reads_and_writes_are_refused,
        "mmap gives ENODEV, of executable memory EPERM" => no_mapping_of_any_kind,
        "splice, sendfile and copy_file_range copy nothing" => no_copying_in_the_kernel,
        "opening /proc/self/fd/N gives ENXIO" => no_second_open,
        "ftruncate, fchmod and fchown give EINVAL, the size stays" => the_size_is_fixed,
        "lseek gives ESPIPE" => there_is_no_file_position,
        "fallocate refuses other modes with EOPNOTSUPP" => fallocate_refuses_other_modes,
        "fallocate refuses unaligned ranges and ranges beyond the end" => fallocate_refuses_ranges,
        "fallocate gives memory, punching takes it, fstat counts it" => fallocate_gives_and_takes_memory,
        "fstat shows a regular file of its size" => fstat_shows_a_regular_file_without_links,
        "memory is charged to the cgroup, once, also when it moved" => memory_is_charged_to_the_cgroup,
        "the cgroup limit ends an allocation with ENOMEM" => the_cgroup_limit_ends_an_allocation,
        "drop_caches, fadvise and reclaim keep every page" => dropping_caches_and_pressure_keep_every_page,
        "SIGKILL ends a long allocation" => sigkill_ends_a_long_allocation,
        "SIGTERM ends a long allocation" => sigterm_ends_a_long_allocation,
        "closing a file frees its memory" => closing_frees_everything,
        "pages count as file pages" => pages_are_unevictable_and_counted,
        "a pinned file allocates and frees as well" => pinned_files_allocate_as_well,
    ])
}
