// SPDX-License-Identifier: GPL-2.0
//! TDs on a TDX module: fixtures on tdhost.ko and tdxemu.ko.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use privmemfd_ioctls::PrivMemFd;
use tdhost::{Command, Device, Report, SeptState, Td};
use tdx_emu_model::regs::op;
use tdx_emu_model::status::{with_op, PAGE_METADATA_INCORRECT};

use crate::fixtures::{go_on, movable, PAGE};
use crate::ktap::skip;
use crate::leaving::pin;

const EMULATOR: &str = "/sys/kernel/debug/tdxemu";
/// GPA of the first page.
const BASE: u64 = 0;

/// Files of the TDX module emulator.
pub mod emulator {
    use super::*;

    fn path(name: &str) -> String {
        format!("{EMULATOR}/{name}")
    }

    fn read(name: &str) -> String {
        fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{}: {e}", path(name)))
    }

    /// Calls fail by the emulator's rules as long as this lives: no other case and no
    /// other program meets them, also when this one panics.
    #[must_use = "nothing fails any more when this is dropped"]
    pub struct Faults(String);

    impl Faults {
        /// Adds rules, one a line.
        #[track_caller]
        pub fn inject(rules: &str) -> Self {
            Self::to(path("faults"), rules)
        }

        #[track_caller]
        fn to(path: String, rules: &str) -> Self {
            let faults = Self(path);
            let done = fs::write(&faults.0, rules);
            done.unwrap_or_else(|e| panic!("{}: {rules}: {e}", faults.0));
            faults
        }
    }

    impl Drop for Faults {
        fn drop(&mut self) {
            let done = fs::write(&self.0, "clear");
            let panics = thread::panicking();
            assert!(done.is_ok() || panics, "{}: {done:?}", self.0);
        }
    }

    #[test]
    fn faults_end_also_when_a_case_panics() {
        let file = std::env::temp_dir().join(format!("faults-{}", std::process::id()));
        let path = file.to_str().unwrap().to_owned();
        let read = || fs::read_to_string(&file).unwrap();
        drop(Faults::to(path.clone(), "wrong"));
        assert_eq!(read(), "clear");
        let failed = std::panic::catch_unwind(|| {
            let _faults = Faults::to(path, "wrong");
            assert_eq!(read(), "wrong");
            panic!("a case that fails");
        });
        assert!(failed.is_err());
        assert_eq!(read(), "clear");
        fs::remove_file(&file).unwrap();
    }

    /// Writes a command to a file of the emulator.
    #[track_caller]
    pub fn write(name: &str, text: &str) {
        fs::write(path(name), text).unwrap_or_else(|e| panic!("{}: {text}: {e}", path(name)));
    }

    /// How often each leaf was called, and how it ended.
    pub struct Counters(HashMap<(String, String), u64>);

    impl Counters {
        /// Since [`clear_counters`].
        pub fn read() -> Self {
            let line = |l: &str| {
                let mut words = l.split_whitespace();
                let leaf = words.next()?.to_owned();
                let what = words.next()?.to_owned();
                Some(((leaf, what), words.next()?.parse().ok()?))
            };
            Self(read("counters").lines().filter_map(line).collect())
        }

        /// Calls of a leaf.
        pub fn calls(&self, leaf: &str) -> u64 {
            self.ended(leaf, "calls")
        }

        /// Calls of a leaf with this status.
        pub fn ended(&self, leaf: &str, status: &str) -> u64 {
            let key = (leaf.to_owned(), status.to_owned());
            self.0.get(&key).copied().unwrap_or(0)
        }
    }

    /// Starts counting anew.
    pub fn clear_counters() {
        write("counters", "0");
    }

    /// Writes of the host to pages of a TD that were found.
    pub fn stray_writes() -> u64 {
        value("violations", "stray_writes")
    }

    /// Whether the module has shut itself down.
    pub fn is_dead() -> bool {
        value("violations", "dead") != 0
    }

    /// How often rules for a leaf have fired.
    pub fn faults_fired(leaf: &str) -> u64 {
        let fired = |line: &str| {
            let rest = line.strip_prefix(leaf)?.strip_prefix(' ')?;
            rest.rsplit_once("fired=")?.1.trim().parse::<u64>().ok()
        };
        read("faults").lines().filter_map(fired).sum()
    }

    /// Whether the module has a TD.
    pub fn has_tds() -> bool {
        read("state").lines().any(|l| l.starts_with("td "))
    }

    fn value(file: &str, name: &str) -> u64 {
        let text = read(file);
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|v| v.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {file}: {text}"))
    }
}

/// The device, or a skip where there is no TDX module.
pub fn device() -> Device {
    match Device::open() {
        Ok(device) => device,
        Err(e) => skip(format!("{}: {e} (insmod tdhost.ko)", tdhost::DEVICE)),
    }
}

/// A TD and the privmemfd that is its memory.
pub struct Tdx {
    /// The TD.
    pub td: Td,
    /// Its memory.
    pub fd: PrivMemFd,
    /// Number of pages.
    pub pages: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// What the pages are filled with.
    pub seed: u64,
}

impl Tdx {
    /// Loses the TD by a move: the TDX module refuses one of its first 8 pages, and to unblock it.
    ///
    /// # Panics
    ///
    /// If the TD is not lost then.
    pub fn lose(&self) {
        let refused = with_op(PAGE_METADATA_INCORRECT, op::RCX);
        let rules = format!(
            "TDH.MEM.PAGE.RELOCATE nth=1 repeat=0 status={refused:#x}\n\
             TDH.MEM.RANGE.UNBLOCK nth=1 status={refused:#x}\n"
        );
        let faults = emulator::Faults::inject(&rules);
        let moved = self.fd.move_range(0..8 * PAGE, None);
        drop(faults);
        assert!(moved.is_err() && self.td.is_dead(), "{moved:?}");
    }

    /// A TD without a page, not finalized.
    pub fn empty(pages: u64, vcpus: u32) -> Self {
        Self::on(movable(pages * PAGE), pages, vcpus)
    }

    /// The same on a file.
    pub fn on(fd: PrivMemFd, pages: u64, vcpus: u32) -> Self {
        let td = device().create(&fd, pages, vcpus, true).unwrap();
        Self {
            td,
            fd,
            pages,
            vcpus,
            seed: crate::fixtures::seed(),
        }
    }

    /// A TD that runs and has accepted and filled all its memory.
    pub fn running(pages: u64, vcpus: u32) -> Self {
        Self::empty(pages, vcpus).boot()
    }

    /// Finalizes the TD and lets it accept and fill all its memory, which comes
    /// by EPT violations.
    pub fn boot(self) -> Self {
        self.td.finalize().unwrap();
        self.ok(0, Command::Accept, self.all());
        self.ok(0, Command::Fill(self.seed), self.all());
        self
    }

    /// All memory.
    pub fn all(&self) -> Range<u64> {
        BASE..BASE + self.pages * PAGE
    }

    /// Page `n`.
    pub fn page(&self, n: u64) -> Range<u64> {
        BASE + n * PAGE..BASE + (n + 1) * PAGE
    }

    /// The part of the memory that vCPU `n` works on.
    pub fn share(&self, vcpu: u32) -> Range<u64> {
        let at = |n: u32| BASE + self.pages * u64::from(n) / u64::from(self.vcpus) * PAGE;
        at(vcpu)..at(vcpu + 1)
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub fn ok(&self, vcpu: u32, command: Command, range: Range<u64>) -> Report {
        let report = self.td.run(vcpu, command, range.clone());
        let report = report.unwrap_or_else(|e| panic!("{command:?} of {range:x?}: {e}"));
        assert_eq!(report.code, 0, "{command:?} of {range:x?}: {report:x?}");
        assert_eq!(report.mismatches, 0, "{command:?}: {report:x?}");
        report
    }

    /// Lets the guest compare all memory with what it wrote.
    #[track_caller]
    pub fn verify(&self) {
        self.ok(0, Command::Verify(self.seed), self.all());
        self.check_mapping();
    }

    /// Panics unless the secure EPT, the host and the file agree about each page.
    #[track_caller]
    pub fn check_mapping(&self) {
        assert_eq!(emulator::stray_writes(), 0, "the host wrote to a TD's page");
        assert!(!emulator::is_dead(), "the TDX module has shut itself down");
        let pfns = self.fd.pages(self.all()).unwrap();
        for (gpa, pfn) in self.all().step_by(PAGE as usize).zip(pfns) {
            let s = self.td.sept(gpa).unwrap();
            assert_eq!(s.pfn, s.mirror, "page {gpa:#x}: {s:x?}");
            let known = matches!(
                s.state,
                SeptState::Free | SeptState::Pending | SeptState::Mapped
            );
            assert!(known, "page {gpa:#x}: {s:x?}");
            if s.state != SeptState::Free {
                assert_eq!(Some(s.pfn), pfn, "page {gpa:#x}: {s:x?}");
            }
        }
    }

    /// How many pages are in this state.
    pub fn in_state(&self, state: SeptState) -> u64 {
        let gpas = self.all().step_by(PAGE as usize);
        gpas.filter(|gpa| self.td.sept(*gpa).unwrap().state == state)
            .count() as u64
    }

    /// Moves all pages; tries again when told to. Returns how many moved.
    #[track_caller]
    pub fn move_all(&self) -> u64 {
        let mut moved = 0;
        for _ in 0..100 {
            match self.fd.move_range(self.all(), None) {
                Ok(n) => return moved + n,
                Err(e) => {
                    assert_eq!(e.errno(), libc::EAGAIN, "{e}");
                    moved += e.moved;
                }
            }
        }
        panic!("still EAGAIN after 100 times");
    }
}

/// Restricts the calling thread to one CPU.
pub fn pin_to(cpu: usize) {
    pin(cpu).unwrap_or_else(|e| panic!("no CPU {cpu}: {e}"));
}

/// vCPUs at work: each writes and compares its part of the memory without pause,
/// each round with another content.
pub struct Crew {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<u64>>,
}

impl Crew {
    /// Starts every vCPU of the TD.
    pub fn start(tdx: &Arc<Tdx>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let threads = (0..tdx.vcpus)
            .map(|vcpu| {
                let (tdx, stop, rounds) = (tdx.clone(), stop.clone(), rounds.clone());
                thread::spawn(move || work(&tdx, vcpu, &stop, &rounds))
            })
            .collect();
        Self {
            stop,
            rounds,
            threads,
        }
    }

    /// Rounds of all vCPUs so far.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Panics unless the vCPUs get further.
    #[track_caller]
    pub fn goes_on(&self) {
        let on = go_on(|| self.rounds(), || self.any_left());
        assert!(on, "the guest hangs");
    }

    /// Whether a vCPU has ended.
    pub fn any_left(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends them; the memory then has the TD's own content again. Panics if one
    /// saw a wrong word. Returns the number of rounds.
    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(JoinHandle::join);
        ended.map(|r| r.expect("a vCPU has failed")).sum()
    }
}

fn work(tdx: &Tdx, vcpu: u32, stop: &AtomicBool, rounds: &AtomicU64) -> u64 {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let seed = tdx.seed ^ n << 40 ^ u64::from(vcpu) << 56;
        tdx.ok(vcpu, Command::Fill(seed), tdx.share(vcpu));
        tdx.ok(vcpu, Command::Verify(seed), tdx.share(vcpu));
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    tdx.ok(vcpu, Command::Fill(tdx.seed), tdx.share(vcpu));
    n
}
