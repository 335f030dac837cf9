// SPDX-License-Identifier: GPL-2.0
//! Looks for a sequence of operations that diverges from the model, and shortens it.
//!
//! A sequence that takes the machine down cannot be shortened by the machine. Then
//! whoever has started it starts it again, with a journal: the ends of the sequences
//! tried so far, which the library, being deterministic, asks for in the same order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::Arc;

use anyhow::{anyhow, bail, Context};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use crate::model::{Op, State};
use crate::strategy::Model;
use crate::system::Real;
use crate::watch;

/// Most operations of a sequence.
const LENGTH: usize = 200;
/// Sequences to try while one is shortened.
const SHORTER: u32 = 2000;

/// How a sequence has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// As the model says.
    Good,
    /// Otherwise, in operation N.
    Bad(usize),
}

/// Ends of sequences that an earlier machine has tried: `good`, or `bad N`.
fn journal(path: Option<&Path>) -> anyhow::Result<VecDeque<End>> {
    let Some(path) = path else {
        return Ok(VecDeque::new());
    };
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let line = |line: &str| match line.split_once(' ') {
        None if line == "good" => Ok(End::Good),
        Some(("bad", n)) => Ok(End::Bad(n.parse()?)),
        _ => bail!("{}: not a line of a journal: {line}", path.display()),
    };
    text.lines().map(line).collect()
}

fn rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// A sequence that diverges, as short as it could be made.
pub struct Divergence {
    /// The operations.
    pub operations: Vec<Op>,
    /// What was not as it must be.
    pub reason: String,
}

/// Tries sequences.
pub struct Search<const TDX: bool> {
    careful: bool,
    known: VecDeque<End>,
    reason: String,
}

impl<const TDX: bool> Search<TDX> {
    /// With the ends that an earlier machine has seen. Prints the end of each that it
    /// tries, if `careful`, and leaves the shortening to what survives a machine.
    ///
    /// # Errors
    ///
    /// The journal cannot be read, or is none.
    pub fn new(careful: bool, path: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self {
            careful,
            known: journal(path)?,
            reason: "the machine ended".into(),
        })
    }

    /// Tries the sequence of a seed.
    ///
    /// # Errors
    ///
    /// The library could make none.
    pub fn sequence(&mut self, seed: u64) -> anyhow::Result<Option<Divergence>> {
        let config = Config {
            cases: 1,
            failure_persistence: None,
            max_shrink_iters: SHORTER,
            ..Config::default()
        };
        let mut runner = TestRunner::new_with_rng(config, rng(seed));
        let strategy = Model::<TDX>::sequential_strategy(1..=LENGTH);
        let tree = strategy.new_tree(&mut runner);
        let tree = tree.map_err(|e| anyhow!("seed {seed:#x}: {e}"))?;
        let operations = if self.careful {
            let (_, operations, _) = tree.current();
            match self.attempt(operations.clone(), None) {
                End::Good => return Ok(None),
                End::Bad(n) => without::<TDX>(&operations, n..operations.len()),
            }
        } else {
            let this = RefCell::new(&mut *self);
            let result = runner.run_one(tree, |(_, operations, seen)| {
                match this.borrow_mut().attempt(operations, seen) {
                    End::Good => Ok(()),
                    End::Bad(n) => Err(TestCaseError::fail(n.to_string())),
                }
            });
            match result {
                Ok(_) => return Ok(None),
                Err(TestError::Fail(_, (_, operations, _))) => operations,
                Err(TestError::Abort(reason)) => bail!("seed {seed:#x}: {reason}"),
            }
        };
        let operations = self.shorten(operations);
        Ok(Some(Divergence {
            operations,
            reason: self.reason.clone(),
        }))
    }

    /// Leaves out pieces, large ones first: what the library, which leaves out one
    /// operation at a time and each once, has left; and all of it where each try may
    /// take a machine.
    fn shorten(&mut self, mut operations: Vec<Op>) -> Vec<Op> {
        let mut piece = operations.len().div_ceil(2);
        while piece > 0 {
            let before = operations.len();
            let mut end = before;
            while end > 0 {
                let start = end.saturating_sub(piece);
                let shorter = without::<TDX>(&operations, start..end);
                if shorter.len() < operations.len() {
                    if let End::Bad(n) = self.attempt(shorter.clone(), None) {
                        operations = shorter;
                        operations.truncate(n);
                    }
                }
                end = start.min(operations.len());
            }
            if operations.len() == before || piece > 1 {
                piece /= 2;
            }
        }
        operations
    }

    /// Carries a sequence out, or remembers its end.
    fn attempt(&mut self, operations: Vec<Op>, seen: Option<Arc<AtomicUsize>>) -> End {
        if let Some(end) = self.known.pop_front() {
            return end;
        }
        if self.careful {
            watch::say(&format!("sequence of {}", operations.len()));
        }
        let before = watch::count();
        let end = catch_unwind(AssertUnwindSafe(|| {
            Real::<TDX>::test_sequential(Config::default(), State::new(TDX), operations, seen);
        }));
        let n = (watch::count() - before) as usize;
        let end = match end {
            Ok(()) => End::Good,
            Err(_) => {
                self.reason = format!("{} (operation {n})", crate::last_panic());
                End::Bad(n)
            }
        };
        if self.careful {
            watch::say(&match end {
                End::Good => "end good".into(),
                End::Bad(n) => format!("end bad {n}"),
            });
        }
        end
    }
}

/// The sequence without some operations, and without those that need them.
fn without<const TDX: bool>(operations: &[Op], left_out: std::ops::Range<usize>) -> Vec<Op> {
    let mut state = State::new(TDX);
    let mut kept = Vec::new();
    for (n, op) in operations.iter().enumerate() {
        if !left_out.contains(&n) && state.allows(op) {
            state = state.apply(op);
            kept.push(op.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(seed: u64) -> Vec<Op> {
        let mut runner = TestRunner::new_with_rng(Config::default(), rng(seed));
        let strategy = Model::<true>::sequential_strategy(1..=LENGTH);
        strategy.new_tree(&mut runner).unwrap().current().1
    }

    #[test]
    fn a_seed_is_a_sequence_that_the_model_allows() {
        for seed in 0..50 {
            let all = operations(seed);
            assert_eq!(all, operations(seed));
            assert_eq!(all, without::<true>(&all, 0..0), "seed {seed}");
        }
    }

    #[test]
    fn what_needs_an_operation_is_left_out_with_it() {
        let file = 0;
        let create = Op::Create {
            file,
            pages: 4,
            movable: true,
            node: None,
        };
        let all = [create, Op::Punch { file, at: 0..1 }, Op::Compact];
        assert_eq!(without::<true>(&all, 0..1), [Op::Compact]);
    }

    #[test]
    fn a_journal_is_read_or_refused() {
        let path = std::env::temp_dir().join(format!("journal-{}", std::process::id()));
        std::fs::write(&path, "good\nbad 7\n").unwrap();
        assert_eq!(journal(Some(&path)).unwrap(), [End::Good, End::Bad(7)]);
        std::fs::write(&path, "worse\n").unwrap();
        assert!(journal(Some(&path)).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(journal(None).unwrap().is_empty());
    }
}
