// SPDX-License-Identifier: GPL-2.0
//! Says what is being done, and ends the machine when that does not end.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Longest time for an operation, also on a debug kernel.
const LIMIT: Duration = Duration::from_secs(30);

static BEGUN: AtomicU64 = AtomicU64::new(0);
static LOUD: AtomicBool = AtomicBool::new(false);
static LAST: Mutex<String> = Mutex::new(String::new());
static TIMES: Mutex<BTreeMap<String, (u64, Duration)>> = Mutex::new(BTreeMap::new());
static SINCE: Mutex<Option<(String, Instant)>> = Mutex::new(None);

/// From now on each operation is printed before it is carried out: what was last
/// printed has ended the machine.
pub fn print_operations() {
    LOUD.store(true, Ordering::Relaxed);
}

/// Takes note of the next operation.
pub fn begins(op: &impl Debug) {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let text = format!("{op:?}");
    let kind = text.split(' ').next().unwrap_or_default().to_owned();
    let now = Instant::now();
    if let Some((before, start)) = SINCE
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .replace((kind, now))
    {
        let mut times = TIMES.lock().unwrap_or_else(|e| e.into_inner());
        let entry = times.entry(before).or_default();
        entry.0 += 1;
        entry.1 += now - start;
    }
    if LOUD.load(Ordering::Relaxed) {
        say(&format!("op {text}"));
    }
    *LAST.lock().unwrap_or_else(|e| e.into_inner()) = text;
}

/// Operations begun so far.
pub fn count() -> u64 {
    BEGUN.load(Ordering::Relaxed)
}

/// Prints a line at once.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Watches over the operations for the rest of the run. One that hangs in the kernel
/// ends the machine, like one that crashes it, so that both are handled alike.
pub fn start() {
    thread::spawn(|| {
        let mut seen = 0;
        loop {
            thread::sleep(LIMIT);
            let now = count();
            if now == seen && now != 0 {
                let last = LAST.lock().unwrap_or_else(|e| e.into_inner()).clone();
                say(&format!("HANGS: {last} for {LIMIT:?} or more"));
                for task in std::fs::read_dir("/proc/self/task")
                    .into_iter()
                    .flatten()
                    .flatten()
                {
                    let stack = std::fs::read_to_string(task.path().join("stack"));
                    say(&stack.unwrap_or_default());
                }
                // SAFETY: ends the machine; takes no pointers.
                unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_RESTART) };
            }
            seen = now;
        }
    });
}

/// Prints how often each kind of operation was carried out, and how long all took,
/// with the comparisons behind them.
pub fn print_times() {
    let times = TIMES.lock().unwrap_or_else(|e| e.into_inner());
    for (kind, (count, time)) in times.iter() {
        say(&format!(
            "{kind:18} {count:8} times {:8.1} s",
            time.as_secs_f64()
        ));
    }
}
