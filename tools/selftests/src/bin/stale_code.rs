// SPDX-License-Identifier: GPL-2.0
//! `stale_code SECONDS`: does the processor run what the kernel has patched, or what
//! stood there before? A processor must; QEMU before 8.1 does not always
//! (Documentation/testing.rst).
//!
//! CPU 0 switches a tracepoint of the scheduler on and off, which patches code, with
//! an int3 there for a moment. Two threads on CPU 1 do nothing but wake each other: so
//! that code runs all the time, and an emulator has to translate it anew after each
//! patch. A stale int3 ends the machine. Neither KVM nor any module is needed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::pipe::pipe;
use selftests::leaving::pin;

const TRACEPOINT: &str = "/sys/kernel/tracing/events/sched/sched_switch/enable";

/// Answers each byte with one, on CPU 1.
fn answer(mut from: File, mut to: File) -> io::Result<()> {
    pin(1)?;
    let mut byte = [0];
    loop {
        from.read_exact(&mut byte)?;
        to.write_all(&byte)?;
    }
}

fn run(time: Duration) -> io::Result<()> {
    let enable = OpenOptions::new().write(true).open(TRACEPOINT)?;
    let (there, back) = (pipe()?, pipe()?);
    rustix::io::write(&there.1, &[0])?;
    for (from, to) in [(there.0, back.1), (back.0, there.1)] {
        std::thread::spawn(move || answer(from.into(), to.into()));
    }
    pin(0)?;
    let (start, mut told, mut switches) = (Instant::now(), 0, 0_u64);
    while start.elapsed() < time {
        enable.write_all_at(if switches % 2 == 0 { b"1" } else { b"0" }, 0)?;
        switches += 1;
        if start.elapsed().as_secs() > told {
            told = start.elapsed().as_secs();
            println!("{told} s: the tracepoint was switched {switches} times");
        }
    }
    enable.write_all_at(b"0", 0)
}

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok());
    let Some(seconds) = seconds else {
        eprintln!("usage: stale_code SECONDS");
        return ExitCode::FAILURE;
    };
    match run(Duration::from_secs(seconds)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("stale_code: {e} (needs root, tracefs and two CPUs)");
            ExitCode::FAILURE
        }
    }
}
