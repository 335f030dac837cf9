// SPDX-License-Identifier: GPL-2.0
//! What many cases start from: files, guests, memory cgroups, children.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use privmemctl::memory::MemoryMap;
use privmemfd_ioctls::{Device, Error, Mobility, MoveError, Options, PrivMemFd, Zone};
use vmm::guest::{ONCE, VERIFY, WRITE};
use vmm::layout::PRIVATE_BASE;
use vmm::{Crew, Exit, Hang, Job, Progress, Vcpu, Vm, VmType};

use crate::ktap::{note, skip};
use crate::stuck;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Longest wait for a guest to do one thing, also on a debug kernel.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// `KVM_CREATE_GUEST_MEMFD` flag of upstream.
pub const GUEST_MEMFD_FLAG_MMAP: u64 = 1;

/// Errors that carry an errno.
pub trait Errno {
    /// The errno.
    fn number(&self) -> i32;
}

impl Errno for Error {
    fn number(&self) -> i32 {
        self.errno()
    }
}

impl Errno for MoveError {
    fn number(&self) -> i32 {
        self.errno()
    }
}

impl Errno for io::Error {
    fn number(&self) -> i32 {
        self.raw_os_error().unwrap_or(0)
    }
}

impl Errno for rustix::io::Errno {
    fn number(&self) -> i32 {
        self.raw_os_error()
    }
}

/// Panics unless `result` failed with this errno.
#[track_caller]
pub fn fails<T, E: Errno>(result: Result<T, E>, errno: i32, what: &str) {
    let name = |n| io::Error::from_raw_os_error(n).to_string();
    match result {
        Ok(_) => panic!("{what}: succeeded, expected {}", name(errno)),
        Err(e) => assert_eq!(
            e.number(),
            errno,
            "{what}: {}, expected {}",
            name(e.number()),
            name(errno)
        ),
    }
}

/// The control device.
pub fn device() -> Device {
    Device::open().unwrap_or_else(|e| panic!("{e}"))
}

/// A file of this kind.
pub fn file(size: u64, mobility: Mobility) -> PrivMemFd {
    device().create(size, Options::new(mobility)).unwrap()
}

/// A movable file.
pub fn movable(size: u64) -> PrivMemFd {
    file(size, Mobility::Movable)
}

/// A movable file on a node whose ZONE_MOVABLE has memory; the first node's may
/// be taken by what the kernel itself needs. Skips where there is none. In other
/// zones compaction moves many pages that are not ours, see [`for_compaction`].
pub fn in_movable_zone(size: u64) -> PrivMemFd {
    let fd = filled_in_movable_zone(size);
    fd.punch_hole(0..size).unwrap();
    fd
}

/// The same on the node whose ZONE_MOVABLE has the fewest pages of others. Compaction
/// fills holes with what lies lowest in the zone, and leaves blocks that are all free as
/// they are: where others have more pages below a file than the file has holes, it moves
/// none of the file's.
pub fn for_compaction(size: u64) -> PrivMemFd {
    let zones = fs::read_to_string("/proc/zoneinfo").unwrap();
    let nodes = MemoryMap::read().map(|m| m.nodes()).unwrap_or_default();
    let taken = |node: &u32| Some((taken_of_movable(&zones, *node)?, *node));
    let Some((pages, node)) = nodes.iter().filter_map(taken).min() else {
        skip("no ZONE_MOVABLE (boot with movablecore=)");
    };
    note(format!(
        "{pages} pages in ZONE_MOVABLE of node {node} are taken"
    ));
    let options = Options::new(Mobility::Movable).node(node);
    device().create(size, options).unwrap()
}

/// Pages in use of a node's ZONE_MOVABLE, by /proc/zoneinfo; `None` if it has no memory.
fn taken_of_movable(zones: &str, node: u32) -> Option<u64> {
    let (_, zone) = zones
        .split("Node ")
        .filter_map(|zone| zone.split_once('\n'))
        .find(|(head, _)| {
            let mut words = head.split([',', ' ']).filter(|word| !word.is_empty());
            words.next() == Some(&node.to_string()) && words.next_back() == Some("Movable")
        })?;
    let number = |name| -> Option<u64> {
        let mut words = zone.split_whitespace().skip_while(|word| *word != name);
        words.nth(1)?.parse().ok()
    };
    let managed = number("managed").filter(|pages| *pages > 0)?;
    managed.checked_sub(number("nr_free_pages")?)
}

/// The same with all its pages.
fn filled_in_movable_zone(size: u64) -> PrivMemFd {
    for node in MemoryMap::read().map(|m| m.nodes()).unwrap_or_default() {
        let options = Options::new(Mobility::Movable).node(node);
        let fd = device().create(size, options).unwrap();
        fd.allocate(0..size).unwrap();
        if fd.stat().unwrap().in_zone(Zone::Movable) > 0 {
            return fd;
        }
    }
    skip("no ZONE_MOVABLE (boot with movablecore=)");
}

/// A seed that differs from run to run; printed.
pub fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = u64::from(now.subsec_nanos()) << 32 | u64::from(std::process::id());
    crate::ktap::note(format!("seed {seed:#x}"));
    seed
}

/// A second NUMA node, and the first; skips where there is one only.
pub fn two_nodes() -> (u32, u32) {
    let nodes = MemoryMap::read().map(|m| m.nodes()).unwrap_or_default();
    match nodes[..] {
        [a, b, ..] => (a, b),
        _ => skip("one NUMA node only (boot with numa=fake=2)"),
    }
}

/// A VM, or a skip where there is no KVM.
pub fn vm(kind: VmType) -> Vm {
    if !std::path::Path::new("/dev/kvm").exists() {
        skip("no /dev/kvm");
    }
    if !kind.is_offered().unwrap() {
        skip("no software-protected VMs: KVM without CONFIG_KVM_SW_PROTECTED_VM");
    }
    Vm::new(kind).unwrap()
}

/// Binds, or skips where KVM does not know privmemfds.
pub fn bind_or_skip(vm: &Vm, at: Range<u64>, fd: BorrowedFd<'_>) {
    if let Err(e) = vm.bind_private(1, at, fd, 0) {
        if vm.guest_memfd_flags() & privmemfd_ioctls::GUEST_MEMFD_FLAG_MOVABLE == 0 {
            skip(format!("KVM has no provider for private memory: {e}"));
        }
        panic!("cannot bind: {e}");
    }
}

/// A guest whose private memory is one file.
pub struct Guest {
    /// The VM.
    pub vm: Vm,
    /// Its idle vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// What they do.
    pub job: Job,
}

impl Guest {
    /// A guest with `count` vCPUs on a whole file.
    pub fn new(fd: &PrivMemFd, count: u64) -> Self {
        let size = fd.stat().unwrap().size;
        let vm = vm(VmType::SwProtected);
        let memory = PRIVATE_BASE..PRIVATE_BASE + size;
        bind_or_skip(&vm, memory.clone(), fd.as_fd());
        let vcpus = (0..count).map(|id| vm.vcpu(id).unwrap()).collect();
        let mut job = Job::new(memory, WRITE | VERIFY);
        job.seed = seed();
        Self { vm, vcpus, job }
    }

    /// Guest addresses of the file.
    pub fn memory(&self) -> Range<u64> {
        self.job.memory.clone()
    }

    /// Guest address of page `n` of the file.
    pub fn page(&self, n: u64) -> u64 {
        self.job.memory.start + n * PAGE
    }

    /// Writes all memory once.
    pub fn fill(&mut self) -> Progress {
        self.once(WRITE)
    }

    /// Verifies all memory once; panics on a wrong cell.
    pub fn verify(&mut self) -> Progress {
        self.once(VERIFY)
    }

    /// The same, and other cells may be right as well: `ALLOW_ZERO`, `ANY_ROUND`.
    pub fn verify_allowing(&mut self, flags: u64) -> Progress {
        self.once(VERIFY | flags)
    }

    fn once(&mut self, flags: u64) -> Progress {
        let job = Job {
            flags: flags | ONCE,
            ..self.job.clone()
        };
        let crew = Crew::start(&self.vm, std::mem::take(&mut self.vcpus), &job).unwrap();
        let (vcpus, progress) = ended(crew.finish(PATIENCE));
        self.vcpus = vcpus;
        assert_eq!(progress.mismatches, 0, "wrong content: {progress:x?}");
        progress
    }

    /// Sets the vCPUs to work without pause.
    pub fn run(&mut self) -> Crew {
        Crew::start(&self.vm, std::mem::take(&mut self.vcpus), &self.job).unwrap()
    }

    /// Panics unless the vCPUs get further, or one has left by itself, which [`Guest::end`] looks at.
    pub fn goes_on(&mut self, crew: Crew) -> Crew {
        if go_on(|| crew.progress().rounds, || crew.any_left()) {
            return crew;
        }
        // Tells where a vCPU is that does not even stop.
        self.end(crew);
        panic!("the guest hangs\n{}", stuck::describe());
    }

    /// Ends what [`Guest::run`] began; panics on a wrong cell.
    pub fn end(&mut self, crew: Crew) -> Progress {
        let (vcpus, progress) = ended(crew.stop());
        self.vcpus = vcpus;
        assert_eq!(progress.mismatches, 0, "wrong content: {progress:x?}");
        progress
    }

    /// Reads a cell by vCPU 0.
    pub fn read(&mut self, gpa: u64) -> Exit {
        self.vcpus[0].read(gpa).unwrap()
    }

    /// Writes a cell by vCPU 0.
    pub fn write(&mut self, gpa: u64, value: u64) {
        assert_eq!(self.vcpus[0].write(gpa, value).unwrap(), Exit::Done(0));
    }

    /// How many cells of a range are not zero.
    pub fn not_zero(&mut self, at: Range<u64>) -> u64 {
        match self.vcpus[0].count(at, 8).unwrap() {
            Exit::Done(n) => n,
            other => panic!("unexpected exit {other:?}"),
        }
    }
}

/// What a vCPU answered; panics if it did not.
pub fn done(exit: Exit) -> u64 {
    match exit {
        Exit::Done(value) => value,
        other => panic!("unexpected exit {other:?}"),
    }
}

/// What a crew hands back. Panics if it has ended otherwise, and tells what everybody is at if
/// its guest hangs.
pub fn ended<T>(end: io::Result<T>) -> T {
    let e = match end {
        Ok(result) => return result,
        Err(e) => e,
    };
    match e.get_ref().and_then(|e| e.downcast_ref::<Hang>()) {
        Some(hang) => panic!("{hang}\n{}", stuck::describe()),
        None => panic!("{e}"),
    }
}

/// Whether vCPUs do two more rounds, or leave by themselves.
pub fn go_on(rounds: impl Fn() -> u64, any_left: impl Fn() -> bool) -> bool {
    let goal = rounds() + 2;
    wait_for(PATIENCE, || rounds() >= goal || any_left())
}

/// Waits for something; false when the time is over.
pub fn wait_for(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// A memory cgroup of our own, removed at the end.
pub struct Cgroup(PathBuf);

impl Cgroup {
    const ROOT: &'static str = "/sys/fs/cgroup";

    /// Makes one with a limit; skips where there is no cgroup v2.
    pub fn new(name: &str, max: u64) -> Self {
        let root = PathBuf::from(Self::ROOT);
        if !root.join("cgroup.controllers").exists() {
            let _ = fs::create_dir_all(&root);
            let made = Command::new("mount")
                .args(["-t", "cgroup2", "none", Self::ROOT])
                .stderr(Stdio::null())
                .status();
            if !made.is_ok_and(|s| s.success()) {
                skip("no cgroup v2");
            }
        }
        if fs::write(root.join("cgroup.subtree_control"), "+memory").is_err() {
            skip("no memory controller");
        }
        let dir = root.join(format!("privmemfd-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let group = Self(dir);
        fs::write(group.0.join("memory.max"), max.to_string()).unwrap();
        group
    }

    /// Bytes charged now.
    pub fn current(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.current")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Sets the limit.
    pub fn limit(&self, max: u64) -> io::Result<()> {
        fs::write(self.0.join("memory.max"), max.to_string())
    }

    /// Puts a process into it.
    pub fn add(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Ours go back to the root; the children of a case have ended.
        let _ = fs::write(
            PathBuf::from(Self::ROOT).join("cgroup.procs"),
            std::process::id().to_string(),
        );
        wait_for(Duration::from_secs(5), || fs::remove_dir(&self.0).is_ok());
    }
}

/// Does something while this process may open no more descriptors.
pub fn without_descriptors<T>(run: impl FnOnce() -> T) -> T {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let old = getrlimit(Resource::Nofile);
    let next = rustix::io::dup(io::stdout()).unwrap();
    let lowest = std::os::fd::AsRawFd::as_raw_fd(&next) as u64;
    drop(next);
    let limit = Rlimit {
        current: Some(lowest),
        maximum: old.maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let result = run();
    setrlimit(Resource::Nofile, old).unwrap();
    result
}

/// Unloads a kernel module that nobody uses.
pub fn unload(module: &CStr) -> io::Result<()> {
    // SAFETY: the name is a C string.
    let ret = unsafe { libc::syscall(libc::SYS_delete_module, module.as_ptr(), libc::O_NONBLOCK) };
    if ret != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Word that makes a test program run one of its children's roles.
pub const ROLE: &str = "--role";

/// Starts this program again in a role, with arguments.
pub fn child(role: &str, arguments: &[&str]) -> Child {
    Command::new("/proc/self/exe")
        .arg(ROLE)
        .arg(role)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The role and arguments this program was started in by [`child`].
pub fn role() -> Option<(String, Vec<String>)> {
    let mut args = std::env::args().skip(1);
    (args.next().as_deref() == Some(ROLE)).then(|| {
        let role = args.next().unwrap_or_default();
        (role, args.collect())
    })
}

/// Sends a signal to a child.
pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

extern "C" fn return_at_once(_: libc::c_int) {}

/// Has a signal do nothing but interrupt.
pub fn return_from(signal: libc::c_int) {
    // SAFETY: the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = return_at_once as extern "C" fn(libc::c_int) as usize;
        let r = libc::sigaction(signal, &action, std::ptr::null_mut());
        assert_eq!(r, 0, "{}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_zone_has_taken() {
        let zones = "Node 0, zone  Movable\n  pages free     0\n        managed  0\n      nr_free_pages 0\n\
            Node 1, zone   Normal\n  pages free     7\n        managed  900\n      nr_free_pages 7\n\
            Node 1, zone  Movable\n  pages free     60\n        managed  100\n      nr_free_pages 60\n";
        assert_eq!(taken_of_movable(zones, 0), None);
        assert_eq!(taken_of_movable(zones, 1), Some(40));
        assert_eq!(taken_of_movable(zones, 2), None);
    }
}
