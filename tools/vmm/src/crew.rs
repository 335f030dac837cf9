// SPDX-License-Identifier: GPL-2.0
//! Several vCPUs at work in threads.

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vm_memory::MmapRegion;

use crate::guest::{Control, Entry, Field, ONCE, VERIFY};
use crate::layout::MAX_VCPUS;
use crate::vcpu::{Exit, Kick, Vcpu};
use crate::vm::Vm;

/// What the vCPUs of a crew do.
#[derive(Debug, Clone)]
pub struct Job {
    /// Guest addresses; every vCPU gets an equal part.
    pub memory: Range<u64>,
    /// [`guest::WRITE`](crate::guest::WRITE) and so on.
    pub flags: u64,
    /// Makes runs differ.
    pub seed: u64,
    /// Bytes from one 8-byte cell to the next, 8 to 4096, a power of two.
    pub stride: u64,
    /// Guest address of byte 0 of the memory, so that two VMs that have the
    /// memory at different addresses agree on its content.
    pub bias: u64,
    /// Go on after memory faults with EFAULT (a memslot was missing).
    pub patient: bool,
}

impl Job {
    /// Write and verify `memory`, all of it.
    pub fn new(memory: Range<u64>, flags: u64) -> Self {
        Self {
            bias: memory.start,
            memory,
            flags,
            seed: 0,
            stride: 8,
            patient: false,
        }
    }

    /// The part of vCPU `id` of `count`.
    fn part(&self, id: u64, count: u64) -> Range<u64> {
        let pages = (self.memory.end - self.memory.start) / 4096;
        let at = |n: u64| self.memory.start + pages * n / count * 4096;
        at(id)..at(id + 1)
    }
}

/// The first wrong cell that a vCPU met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Where.
    pub gpa: u64,
    /// What was there.
    pub got: u64,
    /// What should have been there, with the oldest round allowed.
    pub want: u64,
}

/// What a crew has done so far, all vCPUs together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written.
    pub written: u64,
    /// Bytes verified.
    pub verified: u64,
    /// Wrong cells.
    pub mismatches: u64,
    /// Zero cells.
    pub zeros: u64,
    /// Rounds finished by the slowest vCPU.
    pub rounds: u64,
    /// Memory faults that were waited out.
    pub faults: u64,
    /// The first wrong cell.
    pub first: Option<Mismatch>,
}

/// A guest that does not end, or not by the end of its code: what it was at.
#[derive(Debug)]
pub struct Hang(String);

impl fmt::Display for Hang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Hang {}

impl From<Hang> for io::Error {
    fn from(hang: Hang) -> Self {
        Self::new(io::ErrorKind::TimedOut, hang)
    }
}

/// How long a vCPU may take to see that it has to stop.
const TO_STOP: Duration = Duration::from_secs(40);
/// How long KVM may take to bring back one that does not.
const TO_LEAVE: Duration = Duration::from_secs(5);

/// vCPUs in threads; stops them when dropped.
#[derive(Debug)]
pub struct Crew {
    low: Arc<MmapRegion>,
    count: u64,
    faults: Arc<AtomicU64>,
    leave: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(Vcpu, io::Result<Exit>)>>,
    kicks: Vec<Kick>,
}

impl Crew {
    /// Sets vCPUs (numbered from 0) to work.
    pub fn start(vm: &Vm, vcpus: Vec<Vcpu>, job: &Job) -> io::Result<Self> {
        let count = vcpus.len() as u64;
        assert!((1..=MAX_VCPUS).contains(&count));
        let mut crew = Self {
            low: Arc::clone(vm.low()),
            count,
            faults: Arc::default(),
            leave: Arc::default(),
            threads: Vec::new(),
            kicks: vcpus.iter().map(Vcpu::kick).collect(),
        };
        for id in 0..count {
            let c = crew.control(id);
            let part = job.part(id, count);
            c.set(Field::Stop, 0);
            c.set(Field::Flags, job.flags);
            c.set(Field::Seed, job.seed);
            c.set(Field::Stride, job.stride);
            c.set(Field::Start, part.start);
            c.set(Field::End, part.end);
            c.set(Field::Count, count);
            c.set(Field::Bias, job.bias);
        }
        for mut vcpu in vcpus {
            let control = vcpu.control().address();
            vcpu.start(Entry::Loop, [control, 0, 0])?;
            let faults = Arc::clone(&crew.faults);
            let leave = Arc::clone(&crew.leave);
            let patient = job.patient;
            crew.threads.push(
                thread::Builder::new()
                    .name(format!("vcpu{}", vcpu.id()))
                    .spawn(move || work(vcpu, patient, &faults, &leave))?,
            );
        }
        Ok(crew)
    }

    fn control(&self, id: u64) -> Control<'_> {
        Control::new(&self.low, id)
    }

    /// What they have done so far; counts go on from job to job of a VM.
    pub fn progress(&self) -> Progress {
        let mut p = Progress {
            rounds: u64::MAX,
            faults: self.faults.load(Ordering::Relaxed),
            ..Default::default()
        };
        for id in 0..self.count {
            let c = self.control(id);
            p.written += c.get(Field::Written);
            p.verified += c.get(Field::Verified);
            p.mismatches += c.get(Field::Mismatches);
            p.zeros += c.get(Field::Zeros);
            p.rounds = p.rounds.min(c.get(Field::Rounds));
            if p.first.is_none() && c.get(Field::BadAddress) != 0 {
                p.first = Some(Mismatch {
                    gpa: c.get(Field::BadAddress),
                    got: c.get(Field::BadGot),
                    want: c.get(Field::BadWant),
                });
            }
        }
        p
    }

    /// Whether a vCPU left by itself.
    pub fn any_left(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits until every vCPU left by itself, as it does in a job with
    /// [`ONCE`]; false when the time is over.
    pub fn wait(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.threads.iter().all(JoinHandle::is_finished) {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    fn tell_to_stop(&self) {
        self.leave.store(true, Ordering::Relaxed);
        for id in 0..self.count {
            self.control(id).set(Field::Stop, 1);
        }
    }

    /// Stops the vCPUs and hands them back; a [`Hang`] if one of them ended otherwise than by the
    /// end of its code, or does not stop.
    pub fn stop(mut self) -> io::Result<(Vec<Vcpu>, Progress)> {
        self.tell_to_stop();
        if self.wait(TO_STOP) {
            return self.collect();
        }
        let text = format!("the guest does not stop; {:?}", self.progress());
        Err(self.kick(text).into())
    }

    /// Waits for the end of a job with [`ONCE`] and hands the vCPUs back; a [`Hang`] if the time
    /// is over.
    pub fn finish(mut self, limit: Duration) -> io::Result<(Vec<Vcpu>, Progress)> {
        if self.wait(limit) {
            return self.collect();
        }
        let p = self.progress();
        let running = self.threads.iter().map(|t| !t.is_finished());
        let running: Vec<bool> = running.collect();
        self.tell_to_stop();
        let stops = self.wait(TO_STOP);
        let text = format!(
            "the guest did not finish in {limit:?}, vCPUs running {running:?}, \
             they end when told: {stops}; {p:?}"
        );
        Err(self.kick(text).into())
    }

    /// Ends vCPUs that do not see the end; says where each was.
    fn kick(&mut self, mut text: String) -> Hang {
        let end = Instant::now() + TO_LEAVE;
        while !self.wait(Duration::from_millis(20)) && Instant::now() < end {
            for (thread, kick) in self.threads.iter().zip(&self.kicks) {
                // One that has just ended needs no kick.
                let _ = kick.send(thread);
            }
        }
        for (id, thread) in self.threads.drain(..).enumerate() {
            if !thread.is_finished() {
                // Nobody can wait for it.
                text += &format!("\nvCPU {id} does not come back from KVM");
                continue;
            }
            let exit = thread.join().expect("vCPU threads do not panic").1;
            text += &format!("\nvCPU {id}: {exit:x?}");
        }
        Hang(text)
    }

    fn collect(&mut self) -> io::Result<(Vec<Vcpu>, Progress)> {
        let mut vcpus = Vec::new();
        let mut bad = None;
        for t in self.threads.drain(..) {
            let (vcpu, exit) = t.join().expect("vCPU threads do not panic");
            match exit {
                Ok(Exit::Done(_)) => {}
                other => bad = Some(format!("vCPU {} ended with {other:?}", vcpu.id())),
            }
            vcpus.push(vcpu);
        }
        match bad {
            Some(text) => Err(io::Error::other(Hang(text))),
            None => Ok((vcpus, self.progress())),
        }
    }

    /// One round of verifying by every vCPU, to its end.
    pub fn verify_once(
        vm: &Vm,
        vcpus: Vec<Vcpu>,
        job: &Job,
        limit: Duration,
    ) -> io::Result<(Vec<Vcpu>, Progress)> {
        let kept = job.flags & !crate::guest::WRITE;
        let job = Job {
            flags: kept | VERIFY | ONCE,
            ..job.clone()
        };
        Self::start(vm, vcpus, &job)?.finish(limit)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.tell_to_stop();
        if self.wait(TO_STOP) {
            let _ = self.collect();
        } else {
            let _ = self.kick(String::new());
        }
    }
}

fn work(
    mut vcpu: Vcpu,
    patient: bool,
    faults: &AtomicU64,
    leave: &AtomicBool,
) -> (Vcpu, io::Result<Exit>) {
    loop {
        match vcpu.run() {
            Ok(Exit::MemoryFault { errno, .. }) if patient && errno == libc::EFAULT => {
                faults.fetch_add(1, Ordering::Relaxed);
                if leave.load(Ordering::Relaxed) {
                    return (vcpu, Ok(Exit::Done(0)));
                }
                thread::sleep(Duration::from_micros(200));
            }
            exit => return (vcpu, exit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_cover_the_memory_without_overlap(
            start in 0u64..1 << 20, pages in 0u64..1 << 16, count in 1u64..=MAX_VCPUS,
        ) {
            let start = start * 4096;
            let job = Job::new(start..start + pages * 4096, 0);
            let mut at = start;
            for id in 0..count {
                let part = job.part(id, count);
                prop_assert_eq!(part.start, at);
                prop_assert_eq!(part.end % 4096, 0);
                at = part.end;
            }
            prop_assert_eq!(at, job.memory.end);
        }
    }
}
