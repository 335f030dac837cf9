// SPDX-License-Identifier: GPL-2.0
//! Errors that need the world around to be short of something, and ways to a
//! file's content that are not plain system calls on it.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use privmemfd_ioctls::{Mobility, Options, PrivMemFd, Refusal, GUEST_MEMFD_FLAG_MOVABLE};
use rustix::fs::{Advice, OFlags};
use rustix::process::Signal;
use rustix::thread::{capabilities, set_capabilities, CapabilitySet};
use selftests::cases;
use selftests::effects::{affects_machine, Effect};
use selftests::fixtures::{
    child, device, fails, file, movable, return_from, role, signal, two_nodes, vm, wait_for, Guest,
    MIB, PAGE,
};
use selftests::hostmem::heal;
use selftests::ktap::{self, skip};
use selftests::starve::{FailingCopies, Starved};
use vmm::VmType;

fn full(size: u64) -> PrivMemFd {
    let fd = movable(size);
    fd.allocate(0..size).unwrap();
    fd
}

fn no_pages_gives_enomem() {
    let fd = movable(MIB);
    let pinned = file(MIB, Mobility::Pinned);
    let (first, second) = {
        let _starved = Starved::of_pages();
        (fd.allocate(0..MIB), pinned.allocate(0..MIB))
    };
    fails(first, libc::ENOMEM, "fallocate");
    fails(second, libc::ENOMEM, "fallocate of a pinned file");
    assert_eq!(fd.stat().unwrap().pages, 0);
    fd.allocate(0..MIB).unwrap();
}

fn no_target_gives_enomem() {
    let (first, second) = two_nodes();
    let fd = full(MIB);
    let before = fd.pages(0..MIB).unwrap();
    let results = {
        let _starved = Starved::of_pages();
        [None, Some(first), Some(second)].map(|node| fd.move_range(0..MIB, node))
    };
    let mut refused = 0;
    for result in results {
        match result {
            // Every page is on that node already.
            Ok(moved) => assert_eq!(moved, 0, "pages moved to no memory"),
            Err(e) => {
                assert_eq!((e.errno(), e.moved), (libc::ENOMEM, 0), "{e}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "no move was refused");
    assert_eq!(fd.pages(0..MIB).unwrap(), before, "pages moved");
    assert_eq!(fd.move_range(0..MIB, None).unwrap(), MIB / PAGE);
}

/// Memory that fails while it is copied: what was copied is erased again, and the
/// page is lost.
fn failing_copies_give_ehwpoison() {
    let fd = movable(MIB);
    let mut guest = Guest::new(&fd, 1);
    guest.fill();
    let before = fd.pages(0..MIB).unwrap();

    let failing = FailingCopies::next(3);
    let e = fd.move_range(0..MIB, None).unwrap_err();
    assert_eq!(failing.left(), 0);
    // The rest of their batch has moved; there the request ends.
    assert_eq!(e.errno(), libc::EHWPOISON, "{e}");
    assert!(
        e.moved > 0 && e.moved < MIB / PAGE,
        "{} pages moved",
        e.moved
    );
    let s = fd.stat().unwrap();
    assert_eq!((s.refused_for(Refusal::Poison), s.poisoned), (3, 3));
    heal(&fd, &mut guest, &before, 3);
    guest.fill();
    assert_eq!(fd.move_range(0..MIB, None).unwrap(), MIB / PAGE);
    guest.verify();
}

fn no_objects_gives_enomem() {
    let device = device();
    let result = {
        let _starved = Starved::of_objects();
        device.create(MIB, Options::new(Mobility::Movable))
    };
    fails(result, libc::ENOMEM, "CREATE");
    device.create(MIB, Options::new(Mobility::Movable)).unwrap();
}

fn kvm_create_is_short_of_the_same() {
    let vm = vm(VmType::SwProtected);
    if vm.guest_memfd_flags() & GUEST_MEMFD_FLAG_MOVABLE == 0 {
        skip("KVM has no provider for private memory");
    }
    let make = || vm.create_guest_memfd(MIB, GUEST_MEMFD_FLAG_MOVABLE);
    let result = {
        let _starved = Starved::of_objects();
        make()
    };
    fails(result, libc::ENOMEM, "KVM_CREATE_GUEST_MEMFD");
    let result = at_the_limit_of_files(make);
    fails(result, libc::ENFILE, "KVM_CREATE_GUEST_MEMFD");
    make().unwrap();
}

/// Does something in a thread that is no administrator while the system may open no
/// more files; skips if it cannot be made so.
fn at_the_limit_of_files<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    const LIMIT: &str = "/proc/sys/fs/file-max";
    affects_machine(Effect::Limits);
    let old = fs::read_to_string(LIMIT).unwrap();
    let result = thread::scope(|s| {
        s.spawn(|| {
            let mut mine = capabilities(None).unwrap();
            if !mine.effective.contains(CapabilitySet::SYS_ADMIN) {
                return None;
            }
            fs::write(LIMIT, "0").unwrap();
            // The administrator is above the limit; capabilities belong to the
            // thread.
            mine.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, mine).unwrap();
            Some(run())
        })
        .join()
        .unwrap()
    });
    let Some(result) = result else {
        skip("not root");
    };
    // Opening this takes the administrator, which the first thread still is.
    fs::write(LIMIT, old.trim()).unwrap();
    result
}

fn no_open_files_gives_enfile() {
    let device = device();
    let result = at_the_limit_of_files(|| device.create(MIB, Options::new(Mobility::Movable)));
    fails(result, libc::ENFILE, "CREATE");
}

/// A child that repeats one request until a signal whose handler returns
/// interrupts it.
fn interrupted(request: &str) {
    let mut task = child("until-interrupted", &[request]);
    let mut ready = [0; 1];
    let output = task.stdout.as_mut().unwrap();
    output.read_exact(&mut ready).unwrap();
    let mut status = None;
    // A signal that comes between two requests interrupts none.
    let ended = wait_for(Duration::from_secs(60), || {
        signal(&task, Signal::USR1);
        status = task.try_wait().unwrap();
        status.is_some()
    });
    if !ended {
        task.kill().unwrap();
    }
    assert!(ended, "{request}: no signal interrupted it");
    let code = status.and_then(|s| s.code());
    assert_eq!(code, Some(libc::EINTR), "{request}: ended with {status:?}");
}

fn signals_interrupt_requests() {
    for request in ["fallocate", "STAT", "PAGES", "MOVE"] {
        interrupted(request);
    }
}

fn until_interrupted(request: &str) -> ExitCode {
    let size = 128 * MIB;
    let fd = if request == "fallocate" {
        movable(size)
    } else {
        full(size)
    };
    return_from(libc::SIGUSR1);
    println!("ready");
    let errno = loop {
        let result = match request {
            "fallocate" => fd.allocate(0..size).map_err(|e| e.errno()),
            "STAT" => fd.stat().map(drop).map_err(|e| e.errno()),
            "PAGES" => fd.pages(0..size).map(drop).map_err(|e| e.errno()),
            _ => match fd.move_range(0..size, None) {
                // What contention does not explain ends the loop.
                Err(e) if e.errno() == libc::EAGAIN || e.errno() == libc::EBUSY => Ok(()),
                other => other.map(drop).map_err(|e| e.errno()),
            },
        };
        if let Err(errno) = result {
            break errno;
        }
        if request == "fallocate" {
            fd.punch_hole(0..size).unwrap();
        }
    };
    // The file is as usable as before.
    fd.punch_hole(0..size).unwrap();
    ExitCode::from(u8::try_from(errno).unwrap_or(255))
}

/// Its image would hold what is in the file. Opening the device is where it begins.
fn hibernation_and_files_keep_each_other_out() {
    const SNAPSHOT: &str = "/dev/snapshot";
    let begin = || fs::File::open(SNAPSHOT);
    let first = match begin() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => skip("this kernel does not hibernate"),
        other => other.unwrap(),
    };
    let device = device();
    let make = || device.create(MIB, Options::new(Mobility::Movable));
    fails(make(), libc::EBUSY, "CREATE while the system hibernates");
    drop(first);
    let fd = make().unwrap();
    fails(begin(), libc::EBUSY, "hibernation with a file");
    fails(begin(), libc::EBUSY, "hibernation with a file, again");
    let other = make().unwrap();
    drop(fd);
    fails(begin(), libc::EBUSY, "hibernation with one file of two");
    drop(other);
    begin().unwrap();
    make().unwrap();
}

fn no_map_of_blocks() {
    let fd = full(MIB);
    let mut block: libc::c_int = 0;
    // SAFETY: FIBMAP writes one int.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), FIBMAP, &mut block) };
    fails(os(r), libc::ENOTTY, "FIBMAP");
    let mut map = [0u64; 64];
    // SAFETY: a struct fiemap without room for extents is smaller than that.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FIEMAP, map.as_mut_ptr()) };
    fails(os(r), libc::EOPNOTSUPP, "FIEMAP");
}

const FIBMAP: libc::c_ulong = 1;
const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;

fn os(r: libc::c_int) -> io::Result<libc::c_int> {
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(r)
}

fn no_direct_io_and_no_pipe() {
    let fd = full(MIB);
    let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
    let r = rustix::fs::fcntl_setfl(&fd, flags | OFlags::DIRECT);
    fails(r, libc::EINVAL, "O_DIRECT");
    let mut bytes = [0u8; 8];
    let part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: the vector describes one buffer of ours.
    let r = unsafe { libc::vmsplice(fd.as_raw_fd(), &part, 1, 0) };
    fails(os(r as libc::c_int), libc::EBADF, "vmsplice");
}

fn no_execution() {
    let fd = full(MIB);
    let none: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: the path and the vectors end as they must.
    let r = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            none.as_ptr(),
            none.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    fails(os(r as libc::c_int), libc::EACCES, "execveat");
}

fn advice_makes_no_page() {
    let fd = movable(MIB);
    // SAFETY: no memory is passed.
    let ahead = unsafe { libc::readahead(fd.as_raw_fd(), 0, MIB as usize) };
    let will_need = rustix::fs::fadvise(&fd, 0, None, Advice::WillNeed);
    assert_eq!(
        fd.stat().unwrap().pages,
        0,
        "readahead: {ahead}, WILLNEED: {will_need:?}"
    );
    let full = full(MIB);
    let _ = rustix::fs::fadvise(&full, 0, None, Advice::DontNeed);
    assert_eq!(full.stat().unwrap().pages, MIB / PAGE);
}

/// One request of an io_uring made for it; its result.
fn by_io_uring(fd: &PrivMemFd, opcode: u8, buffer: &mut [u8]) -> io::Result<i32> {
    let mut params = [0u32; 30];
    // SAFETY: a struct io_uring_params has 120 bytes.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    let ring = os(ring as libc::c_int)?;
    // SAFETY: the kernel just made this descriptor for us.
    let ring = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(ring) };
    let map = |offset| {
        // SAFETY: a new mapping in a place of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                offset,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        at.cast::<u8>()
    };
    // The rings of one entry share a page; entries are apart.
    let (rings, entry) = (map(0), map(0x1000_0000));
    let mut sqe = [0u8; 64];
    sqe[0] = opcode;
    sqe[4..8].copy_from_slice(&fd.as_raw_fd().to_ne_bytes());
    sqe[16..24].copy_from_slice(&(buffer.as_mut_ptr() as u64).to_ne_bytes());
    sqe[24..28].copy_from_slice(&(buffer.len() as u32).to_ne_bytes());
    // Offsets in params: sq_off.tail and .array, cq_off.cqes.
    let (tail, array, cqes) = (params[11], params[16], params[25]);
    // SAFETY: the kernel says that these are in the mappings, aligned, and it
    // reads them only in the call below.
    unsafe {
        entry.copy_from_nonoverlapping(sqe.as_ptr(), sqe.len());
        rings.add(array as usize).cast::<u32>().write_volatile(0);
        rings.add(tail as usize).cast::<u32>().write_volatile(1);
    }
    const GETEVENTS: u32 = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: the entry's buffer lives until its completion, awaited here.
    let r = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            1,
            1,
            GETEVENTS,
            none,
            0,
        )
    };
    os(r as libc::c_int)?;
    // SAFETY: as above; the result is the third word of the completion.
    let result = unsafe { rings.add(cqes as usize + 8).cast::<i32>().read_volatile() };
    // SAFETY: nothing refers to the mappings.
    unsafe {
        libc::munmap(rings.cast(), PAGE as usize);
        libc::munmap(entry.cast(), PAGE as usize);
    }
    Ok(result)
}

fn no_way_through_io_uring() {
    const READ: u8 = 22;
    const WRITE: u8 = 23;
    let fd = full(MIB);
    let mut buffer = [0x55u8; 64];
    for (opcode, what) in [(READ, "read"), (WRITE, "write")] {
        match by_io_uring(&fd, opcode, &mut buffer) {
            Ok(result) => assert_eq!(result, -libc::EINVAL, "{what}"),
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => skip("no io_uring"),
            Err(e) => panic!("{what}: {e}"),
        }
    }
    assert_eq!(buffer, [0x55; 64], "something was read");
    // The ring itself works.
    let memfd = rustix::fs::memfd_create("ring", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&memfd, b"bytes").unwrap();
    let other = PrivMemFd::from(memfd.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(by_io_uring(&other, READ, &mut buffer).unwrap(), 5);
    assert_eq!(&buffer[..5], b"bytes");
}

fn main() -> ExitCode {
    if let Some((_, arguments)) = role() {
        return until_interrupted(&arguments[0]);
    }
    ktap::main(cases![
        "fallocate without memory gives ENOMEM" => no_pages_gives_enomem,
        "MOVE without memory gives ENOMEM and leaves every page" => no_target_gives_enomem,
        "MOVE of pages whose memory fails gives EHWPOISON and keeps them" => failing_copies_give_ehwpoison,
        "CREATE without memory gives ENOMEM" => no_objects_gives_enomem,
        "CREATE at the system's limit of files gives ENFILE" => no_open_files_gives_enfile,
        "KVM_CREATE_GUEST_MEMFD is short of memory and files as CREATE is" => kvm_create_is_short_of_the_same,
        "a signal's handler interrupts every long request with EINTR" => signals_interrupt_requests,
        "hibernation and files keep each other out with EBUSY" => hibernation_and_files_keep_each_other_out,
        "FIBMAP gives ENOTTY, FIEMAP EOPNOTSUPP" => no_map_of_blocks,
        "O_DIRECT gives EINVAL, vmsplice EBADF" => no_direct_io_and_no_pipe,
        "execveat gives EACCES" => no_execution,
        "readahead and fadvise make no page and free none" => advice_makes_no_page,
        "io_uring reads and writes give EINVAL" => no_way_through_io_uring,
    ])
}
