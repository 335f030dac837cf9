// SPDX-License-Identifier: GPL-2.0
//! The guest on its private memory, and the live line about it.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{bail, Context};
use privmemctl::draw::{bytes, number, picture};
use privmemctl::memory::{Census, MemoryMap};
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd};
use vmm::guest::{ONCE, VERIFY, WRITE};
use vmm::layout::PRIVATE_BASE;
use vmm::{Crew, Job, Progress, Vcpu, Vm, VmType};

use crate::report::{Log, Phase};
use crate::tdx::Companion;

/// Longest wait for the guest to get through its memory once.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running guest.
pub struct Stage {
    /// Its private memory.
    pub fd: PrivMemFd,
    /// Bytes of it.
    pub size: u64,
    job: Job,
    crew: Crew,
    vm: Vm,
    live: bool,
}

/// The node with most movable memory.
fn home_node() -> anyhow::Result<Option<u32>> {
    let map = MemoryMap::read().context("this kernel has no memory blocks")?;
    let movable = |node| {
        let blocks = map.blocks.values();
        blocks
            .filter(|b| b.online && b.is_movable() && b.node == Some(node))
            .count()
    };
    let best = map.nodes().into_iter().max_by_key(|node| movable(*node));
    Ok(best.filter(|node| movable(*node) > 0))
}

/// Where the counters stand.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Pages moved since the file was made.
    pub relocated: u64,
    /// Bytes the guest verified.
    pub verified: u64,
    /// Cells it found wrong.
    pub mismatches: u64,
}

impl Stage {
    /// Starts the guest and waits until it wrote all its memory once. With `td`, a TD owns the
    /// memory first.
    pub fn open(
        size: u64,
        vcpus: u64,
        stride: u64,
        plain: bool,
        td: bool,
    ) -> anyhow::Result<(Self, Option<Companion>)> {
        let mut options = Options::new(Mobility::Movable);
        if let Some(node) = home_node()? {
            options = options.node(node);
        }
        let fd = Device::open()?.create(size, options)?;
        let companion = td.then(|| Companion::start(&fd, size)).transpose()?;
        let vm = Vm::new(VmType::SwProtected)
            .context("cannot make a VM: are kvm.ko and its vendor module loaded?")?;
        let memory = PRIVATE_BASE..PRIVATE_BASE + size;
        vm.bind_private(1, memory.clone(), fd.as_fd(), 0)
            .context("KVM does not take a privmemfd: is it the patched kvm.ko?")?;
        let crew: Vec<Vcpu> = (0..vcpus).map(|id| vm.vcpu(id)).collect::<Result<_, _>>()?;
        let mut job = Job::new(memory, WRITE | ONCE);
        job.stride = stride;
        job.seed = u64::from(std::process::id()) << 32 | 0x5eed;
        let (crew, _) = Crew::start(&vm, crew, &job)?.finish(PATIENCE)?;
        job.flags = WRITE | VERIFY;
        let crew = Crew::start(&vm, crew, &job)?;
        let live = !plain && std::io::stdout().is_terminal();
        let stage = Self {
            fd,
            size,
            job,
            crew,
            vm,
            live,
        };
        Ok((stage, companion))
    }

    /// Reads the counters.
    pub fn sample(&self) -> anyhow::Result<Sample> {
        let p = self.crew.progress();
        Ok(Sample {
            relocated: self.fd.stat()?.relocated,
            verified: p.verified,
            mismatches: p.mismatches,
        })
    }

    /// How many of the guest's pages are in each memory block.
    pub fn census(&self) -> anyhow::Result<(MemoryMap, Census)> {
        let map = MemoryMap::read().context("this kernel has no memory blocks")?;
        let census = map.count(&self.fd.pages(0..self.size)?);
        Ok((map, census))
    }

    /// Runs one phase under the guest, with a live line and a picture before
    /// and after, and waits until the guest verified everything once more.
    pub fn phase(
        &self,
        name: &str,
        title: &str,
        work: impl FnOnce(&mut Log) -> anyhow::Result<()>,
    ) -> anyhow::Result<Phase> {
        println!("\n── {title}");
        let (map, before) = self.census()?;
        print!("  before:\n{}", picture(&map, &before, None));
        let from = self.sample()?;
        let start = Instant::now();
        let mut log = Log::default();
        let (done, took) = std::thread::scope(|scope| {
            let (stop, stopped) = channel::<()>();
            scope.spawn(move || self.ticker(name, from, &stopped));
            let done = work(&mut log);
            let took = start.elapsed();
            let done = done.and_then(|()| self.settle());
            drop(stop);
            (done, took)
        });
        let to = self.sample()?;
        self.line(name, from, to, true);
        let (map, after) = self.census()?;
        print!("  after:\n{}", picture(&map, &after, Some(&before)));
        if let Err(e) = done {
            log.complaints.push(format!("{e:#}"));
            if self.crew.any_left() {
                bail!("the guest stopped during {name}: {e:#}");
            }
        }
        for note in &log.notes {
            println!("  note: {note}");
        }
        for complaint in &log.complaints {
            println!("  complaint: {complaint}");
        }
        let relocated = to.relocated - from.relocated;
        Ok(Phase {
            name: name.into(),
            relocated_pages: relocated,
            moved_by_itself: log.by_itself.unwrap_or(relocated),
            verified_bytes: to.verified - from.verified,
            mismatches: to.mismatches - from.mismatches,
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            blocks_before: before,
            blocks_after: after,
            notes: log.notes,
            complaints: log.complaints,
        })
    }

    /// Waits until every vCPU verified all memory once from here on.
    fn settle(&self) -> anyhow::Result<()> {
        // The round that is under way began before: two must end.
        let goal = self.crew.progress().rounds + 2;
        let end = Instant::now() + PATIENCE;
        while self.crew.progress().rounds < goal {
            if self.crew.any_left() {
                bail!("a vCPU left");
            }
            if Instant::now() > end {
                bail!("the guest made no progress for {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn ticker(&self, name: &str, from: Sample, stopped: &std::sync::mpsc::Receiver<()>) {
        let pause = Duration::from_millis(if self.live { 500 } else { 2000 });
        while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            if let Ok(now) = self.sample() {
                self.line(name, from, now, false);
            }
        }
    }

    fn line(&self, name: &str, from: Sample, now: Sample, last: bool) {
        let text = format!(
            "  {name:<8} moved {:>9} pages (+{})   guest verified {:>9}   mismatches {}",
            number(now.relocated),
            number(now.relocated - from.relocated),
            bytes(now.verified),
            now.mismatches
        );
        let mut out = std::io::stdout().lock();
        // A picture that cannot be shown is no reason to stop.
        let _ = match (self.live, last) {
            (true, false) => write!(out, "\r\x1b[K{text}"),
            (true, true) => writeln!(out, "\r\x1b[K{text}"),
            (false, _) => writeln!(out, "{text}"),
        };
        let _ = out.flush();
    }

    /// Stops the guest after it verified everything once more.
    pub fn close(self) -> anyhow::Result<(PrivMemFd, Progress)> {
        let (vcpus, _) = self.crew.stop()?;
        let (_, progress) = Crew::verify_once(&self.vm, vcpus, &self.job, PATIENCE)?;
        Ok((self.fd, progress))
    }
}
