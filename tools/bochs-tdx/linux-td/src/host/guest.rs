// SPDX-License-Identifier: GPL-2.0
//! The VMM with the TD in it, and what comes out of the TD's serial line.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{bail, Context};

use crate::vmm::{Keys, Setup};

/// How far the TD has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing but the firmware has run.
    Firmware,
    /// The kernel has said something.
    Kernel,
    /// The first process works.
    Working,
    /// It has ended its work.
    Done,
}

/// What the TD has said.
#[derive(Debug)]
pub struct Said {
    /// How far it is, and when each stage began.
    pub stage: Stage,
    /// Seconds from the start of the VMM to the first output, the kernel and init.
    pub seconds: BTreeMap<&'static str, f64>,
    /// Counters of the last status line.
    pub counters: BTreeMap<String, u64>,
    /// Lines of the first process that are none of the above.
    pub lines: Vec<String>,
    /// What it thinks of its memory.
    pub verdict: Option<String>,
}

/// A running TD.
pub struct Guest {
    child: Child,
    keys: Keys,
    reader: Option<JoinHandle<()>>,
    said: Arc<Mutex<Said>>,
}

impl Said {
    fn line(&mut self, line: &str, started: Instant) {
        let now = started.elapsed().as_secs_f64();
        if self.stage == Stage::Firmware && line.contains("Linux version ") {
            self.stage = Stage::Kernel;
            self.seconds.insert("kernel", now);
        }
        // A message of the kernel may be in front of it.
        let Some((_, text)) = line.split_once("td: ") else {
            return;
        };
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "init" => {
                self.seconds.insert("init", now);
            }
            "status" | "done" => {
                self.stage = self.stage.max(if word == "done" {
                    Stage::Done
                } else {
                    Stage::Working
                });
                self.seconds.entry("working").or_insert(now);
                for pair in rest.split(' ') {
                    if let Some((key, Ok(value))) =
                        pair.split_once('=').map(|(k, v)| (k, v.parse()))
                    {
                        self.counters.insert(key.to_owned(), value);
                    }
                }
            }
            "verdict" => self.verdict = Some(rest.to_owned()),
            _ => self.lines.push(text.to_owned()),
        }
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guest {
    /// Starts it. What it says is kept, and `shown` as well if nobody here understands it.
    ///
    /// # Errors
    /// The VMM cannot be started.
    pub fn start(setup: &Setup, shown: bool) -> anyhow::Result<Self> {
        let (mut child, keys) = setup.start().context("cannot start the VMM")?;
        let started = Instant::now();
        let mut output = child.stdout.take().context("the VMM has no output")?;
        let mut log = File::create(setup.log).context("cannot keep the TD's output")?;
        let said = Arc::new(Mutex::new(Said {
            stage: Stage::Firmware,
            seconds: BTreeMap::new(),
            counters: BTreeMap::new(),
            lines: Vec::new(),
            verdict: None,
        }));
        let shared = Arc::clone(&said);
        let reader = thread::spawn(move || {
            let (mut buffer, mut pending) = ([0; 4096], Vec::new());
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                // What is not kept is not worth to stop for.
                let _ = log.write_all(&buffer[..n]);
                lock(&shared)
                    .seconds
                    .entry("output")
                    .or_insert_with(|| started.elapsed().as_secs_f64());
                pending.extend_from_slice(&buffer[..n]);
                while let Some(end) = pending.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line);
                    if shown {
                        println!("         {}", line.trim_end());
                    }
                    lock(&shared).line(line.trim(), started);
                }
            }
        });
        Ok(Self {
            child,
            keys,
            reader: Some(reader),
            said,
        })
    }

    /// The VMM's process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has said until now.
    pub fn said(&self) -> MutexGuard<'_, Said> {
        lock(&self.said)
    }

    /// Where the VMM's threads are, and what KVM has counted for its vCPUs: for a TD that
    /// does not go on.
    pub fn whereabouts(&self) -> String {
        let mut out = String::new();
        let mut add = |path: &Path| {
            if let Ok(text) = fs::read_to_string(path) {
                out += &format!("{} {}\n", path.display(), text.trim().replace('\n', " | "));
            }
        };
        let below = |dir: &str| {
            fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
        };
        for task in below(&format!("/proc/{}/task", self.pid())) {
            for name in ["comm", "status", "stack", "syscall"] {
                add(&task.join(name));
            }
        }
        for vm in below("/sys/kernel/debug/kvm").filter(|p| p.is_dir()) {
            for vcpu in below(&vm.to_string_lossy()).filter(|p| p.is_dir()) {
                for stat in below(&vcpu.to_string_lossy()) {
                    add(&stat);
                }
            }
        }
        out
    }

    /// Whether the VMM runs.
    ///
    /// # Errors
    /// It has no process any more.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends it as it is.
    ///
    /// # Errors
    /// It has no process any more.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the first process to end its work, and waits until the VMM ends.
    ///
    /// # Errors
    /// It does not within that time.
    pub fn stop(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        // If the VMM has ended already, its status says why.
        let _ = self.keys.type_in("stop\n");
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                if let Some(reader) = self.reader.take() {
                    let _ = reader.join();
                }
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("the TD has not ended within {} s", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
