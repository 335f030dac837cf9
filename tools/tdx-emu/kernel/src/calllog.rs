// SPDX-License-Identifier: GPL-2.0

//! The last calls, in the form of the recordings that the replayer reads.
//!
//! A ring without locks, for it is written in the trap handler. A line that is overwritten while
//! it is read is left out.

use kernel::fmt;
use tdx_emu_model::{
    log::CallRecord,
    mem::Word,
    Outcome,
    Regs, //
};

/// Calls it remembers.
const LINES: usize = 1024;
/// Registers of a [`Regs`].
const REGS: usize = 15;
/// LP and outcome, input, output.
const WORDS: usize = 1 + 2 * REGS;

struct Line {
    /// Twice the number of the record, plus 1 while it is written and 2 after it.
    sequence: Word,
    words: [Word; WORDS],
}

/// The ring.
pub(crate) struct CallLog {
    on: Word,
    next: Word,
    /// Records before this one are not shown.
    first: Word,
    lines: [Line; LINES],
}

/// The one instance.
pub(crate) static LOG: CallLog = CallLog {
    on: Word::new(0),
    next: Word::new(0),
    first: Word::new(0),
    lines: [const {
        Line {
            sequence: Word::new(0),
            words: [const { Word::new(0) }; WORDS],
        }
    }; LINES],
};

impl CallLog {
    /// Starts or stops recording.
    pub(crate) fn set_on(&self, on: bool) {
        self.on.set(on.into());
    }

    /// Forgets what there is.
    pub(crate) fn clear(&self) {
        self.first.set(self.next.get());
    }

    /// Adds a call. Any context.
    pub(crate) fn put(&self, record: &CallRecord) {
        if self.on.get() == 0 {
            return;
        }
        let n = self.next.add(1);
        let line = &self.lines[n as usize % LINES];
        let outcome = match record.outcome {
            Outcome::Done => 0,
            Outcome::Entered => 1,
            Outcome::VmFailInvalid => 2,
        };
        line.sequence.set(2 * n + 1);
        let injected = u64::from(record.injected) << 7;
        line.words[0].set((record.lp as u64) << 8 | injected | outcome);
        let regs = record
            .input
            .array()
            .into_iter()
            .chain(record.output.array());
        for (w, value) in line.words[1..].iter().zip(regs) {
            w.set(value);
        }
        line.sequence.set(2 * n + 2);
    }

    fn get(&self, n: u64) -> Option<CallRecord> {
        let line = &self.lines[n as usize % LINES];
        let whole = || line.sequence.get() == 2 * n + 2;
        if !whole() {
            return None;
        }
        let head = line.words[0].get();
        let regs =
            |from: usize| Regs::from_array(core::array::from_fn(|i| line.words[from + i].get()));
        let record = CallRecord {
            lp: (head >> 8) as usize,
            input: regs(1),
            output: regs(1 + REGS),
            injected: head & 0x80 != 0,
            outcome: match head & 0x7f {
                0 => Outcome::Done,
                1 => Outcome::Entered,
                _ => Outcome::VmFailInvalid,
            },
        };
        whole().then_some(record)
    }

    /// Writes all there is, the oldest call first.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next = self.next.get();
        let first = self.first.get().max(next.saturating_sub(LINES as u64));
        for n in first..next {
            if let Some(record) = self.get(n) {
                record.write(f, "tdxemu", n)?;
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
