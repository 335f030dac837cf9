// SPDX-License-Identifier: GPL-2.0
//! The work: threads that fill and verify memory cell by cell, processes that come and go,
//! files, mappings, and a disk whose blocks are verified and whose rings are shared anew now
//! and then.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{fadvise, Advice};

const MIB: u64 = 1 << 20;
const CELL: u64 = 8;
const THREADS: u64 = 3;
/// Exit status of a child whose memory was right.
const CHILD_GOOD: i32 = 42;
const CHILD_MIB: u64 = 1;
const FILE_MIB: u64 = 2;
/// The host's disk.
pub const DISK: &str = "/dev/vda";
/// What the host has put on the disk: `cell(DISK_SEED, n)`.
const DISK_SEED: u64 = 0x5444_4449_534B;

/// Counters that all workers share.
#[derive(Default)]
pub struct Shared {
    stop: AtomicBool,
    rounds: AtomicU64,
    bytes: AtomicU64,
    processes: AtomicU64,
    files: AtomicU64,
    mappings: AtomicU64,
    disk_bytes: AtomicU64,
    conversions: AtomicU64,
    mismatches: AtomicU64,
    pause_us: AtomicU64,
}

impl Shared {
    /// Nobody starts another round.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
    /// Whether nobody starts another round.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
    /// Cells that were not what they had to be.
    pub fn mismatches(&self) -> u64 {
        self.mismatches.load(Ordering::SeqCst)
    }
    /// A thread that goes first did not run for so long.
    pub fn pause(&self, for_so_long: Duration) {
        let us = for_so_long.as_micros() as u64;
        self.pause_us.fetch_max(us, Ordering::Relaxed);
    }
    /// All counters, for the host.
    pub fn line(&self) -> String {
        let get = |c: &AtomicU64| c.load(Ordering::SeqCst);
        format!(
            "rounds={} bytes={} processes={} files={} mappings={} disk_bytes={} conversions={} mismatches={} pause_us={}",
            get(&self.rounds),
            get(&self.bytes),
            get(&self.processes),
            get(&self.files),
            get(&self.mappings),
            get(&self.disk_bytes),
            get(&self.conversions),
            get(&self.mismatches),
            get(&self.pause_us),
        )
    }

    fn verified(&self, what: &str, bytes: u64, wrong: Option<(u64, u64, u64)>) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some((index, want, got)) = wrong {
            self.mismatches.fetch_add(1, Ordering::SeqCst);
            crate::say(&format!(
                "mismatch {what} cell {index}: {want:#x}, found {got:#x}"
            ));
        }
    }
}

/// What belongs into a cell (SplitMix64).
const fn cell(seed: u64, index: u64) -> u64 {
    let z = (seed ^ index).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ z >> 27
}

fn fill(cells: &mut [u64], seed: u64) {
    for (i, c) in (0..).zip(cells) {
        *c = cell(seed, i);
    }
}

/// The first cell that is wrong: its number, what it has to be, what it is.
fn check(cells: &[u64], seed: u64) -> Option<(u64, u64, u64)> {
    (0..)
        .zip(cells)
        .find(|(i, c)| **c != cell(seed, *i))
        .map(|(i, c)| (i, cell(seed, i), *c))
}

fn bytes_of(cells: &[u64]) -> Vec<u8> {
    cells.iter().flat_map(|c| c.to_le_bytes()).collect()
}

fn check_bytes(bytes: &[u8], seed: u64) -> Option<(u64, u64, u64)> {
    let mut word = [0; 8];
    (0..).zip(bytes.chunks_exact(8)).find_map(|(i, b)| {
        word.copy_from_slice(b);
        let got = u64::from_le_bytes(word);
        (got != cell(seed, i)).then_some((i, cell(seed, i), got))
    })
}

/// Fills its memory once, then verifies and rewrites it a page at a time: what a page has
/// to hold depends on how often it was written.
fn memory(s: &Shared, number: u64, mib: u64) -> io::Result<()> {
    const PAGE: usize = 512;
    let mut cells = vec![0u64; (mib * MIB / CELL) as usize];
    let seed = |page: usize, round: u64| number << 56 ^ round << 40 ^ (page as u64) << 12;
    for (n, page) in cells.chunks_mut(PAGE).enumerate() {
        fill(page, seed(n, 0));
    }
    let mut round = 0;
    while !s.stopped() {
        for (n, page) in cells.chunks_mut(PAGE).enumerate() {
            let wrong = check(page, seed(n, round));
            s.verified("memory", page.len() as u64 * CELL, wrong);
            fill(page, seed(n, round + 1));
        }
        round += 1;
        s.rounds.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// What a child does; its exit status.
pub fn child(seed: u64) -> i32 {
    let mut cells = vec![0u64; (CHILD_MIB * MIB / CELL) as usize];
    fill(&mut cells, seed);
    thread::yield_now();
    if check(&cells, seed).is_none() {
        CHILD_GOOD
    } else {
        1
    }
}

fn processes(s: &Shared) -> io::Result<()> {
    let mut seed = 0;
    while !s.stopped() {
        seed += 1;
        let status = Command::new("/init")
            .args(["child", &seed.to_string()])
            .status()?;
        let wrong = (status.code() != Some(CHILD_GOOD)).then_some((seed, CHILD_GOOD as u64, 0));
        s.verified("of a process", CHILD_MIB * MIB, wrong);
        s.processes.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn files(s: &Shared) -> io::Result<()> {
    let mut cells = vec![0u64; (FILE_MIB * MIB / CELL) as usize];
    let mut seed = 1 << 32;
    while !s.stopped() {
        seed += 1;
        let path = format!("/tmp/file-{}", seed % 3);
        fill(&mut cells, seed);
        fs::write(&path, bytes_of(&cells))?;
        let read = fs::read(&path)?;
        s.verified("of a file", read.len() as u64, check_bytes(&read, seed));
        fs::remove_file(&path)?;
        s.files.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Memory that is mapped, used and unmapped: an allocation as large as these is a mapping.
fn mappings(s: &Shared) -> io::Result<()> {
    let mut seed = 2 << 32;
    while !s.stopped() {
        seed += 1;
        let size = (256 << 10) + (seed % 7) * (128 << 10);
        let mut cells = vec![0u64; (size / CELL) as usize];
        if let Some(i) = cells.iter().position(|c| *c != 0) {
            s.verified("of new memory", 0, Some((i as u64, 0, cells[i])));
        }
        fill(&mut cells, seed);
        s.verified("of a mapping", size, check(&cells, seed));
        s.mappings.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn open_disk() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DISK)
}

/// The driver lets go of the disk and takes it again: the rings that it shares with the host
/// become private memory, and other memory is shared. Nobody has the disk open.
fn probe_again() -> io::Result<()> {
    const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";
    let device = fs::canonicalize("/sys/block/vda/device")?;
    let name = device.file_name().ok_or(io::ErrorKind::NotFound)?;
    for action in ["unbind", "bind"] {
        fs::write(Path::new(DRIVER).join(action), name.as_encoded_bytes())?;
    }
    Ok(())
}

/// The disk: first what the host has put there, then what is written here. After each round
/// the driver takes it anew.
fn disk(s: &Shared) -> io::Result<()> {
    const CHUNK: u64 = MIB;
    let mut file = open_disk()?;
    let size = file.seek(SeekFrom::End(0))?;
    let mut buffer = vec![0; CHUNK as usize];
    let mut cells = vec![0u64; (CHUNK / CELL) as usize];
    let seed = |round: u64, at: u64| {
        if round == 0 {
            DISK_SEED ^ at << 24
        } else {
            3 << 60 ^ round << 44 ^ at
        }
    };
    let mut round = 0;
    while !s.stopped() {
        for at in (0..size / CHUNK).map(|n| n * CHUNK) {
            // From the disk, not from memory.
            fadvise(
                &file,
                at,
                std::num::NonZeroU64::new(CHUNK),
                Advice::DontNeed,
            )?;
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut buffer)?;
            let wrong = check_bytes(&buffer, seed(round, at / CHUNK));
            s.verified("of the disk", CHUNK, wrong);
            fill(&mut cells, seed(round + 1, at / CHUNK));
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&bytes_of(&cells))?;
            file.sync_data()?;
            s.disk_bytes.fetch_add(2 * CHUNK, Ordering::Relaxed);
            if s.stopped() {
                return Ok(());
            }
        }
        round += 1;
        drop(file);
        probe_again()?;
        s.conversions.fetch_add(1, Ordering::Relaxed);
        file = open_disk()?;
    }
    Ok(())
}

/// What a worker does until it is told to stop.
type Work = Box<dyn FnOnce(&Shared) -> io::Result<()> + Send>;

/// Starts all workers; `mib` of memory is in use all the time.
///
/// # Errors
/// A thread cannot be made.
pub fn start(shared: &Arc<Shared>, mib: u64) -> io::Result<Vec<JoinHandle<io::Result<()>>>> {
    let mut all = Vec::new();
    let mut add = |name: String, work: Work| {
        let s = Arc::clone(shared);
        all.push(thread::Builder::new().name(name.clone()).spawn(move || {
            let result = work(&s);
            if let Err(e) = &result {
                crate::say(&format!("error {name}: {e}"));
                s.stop();
            }
            result
        })?);
        io::Result::Ok(())
    };
    for n in 0..THREADS {
        let share = (mib / THREADS).max(1);
        add(
            format!("memory {n}"),
            Box::new(move |s| memory(s, n + 1, share)),
        )?;
    }
    add("processes".into(), Box::new(processes))?;
    add("files".into(), Box::new(files))?;
    add("mappings".into(), Box::new(mappings))?;
    add("disk".into(), Box::new(disk))?;
    Ok(all)
}
