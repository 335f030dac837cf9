// SPDX-License-Identifier: GPL-2.0
//! The fault plan: calls that fail because a test wants them to.

use crate::mem::Word;

/// Most rules of a plan.
pub const MAX_RULES: usize = 16;

/// Which calls of the leaf a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The n-th call from now on, counted from 1, once.
    Nth(u32),
    /// The n-th call and those after it, `count` in all; 0: without end.
    From {
        /// n.
        nth: u16,
        /// How many.
        count: u16,
    },
    /// Every k-th call.
    Every(u32),
    /// Each call with a chance of `n` in 65536, by the plan's seed.
    Random(u16),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The call returns this status and has no effect. RCX and RDX are zero
    /// for the leaves that zero them.
    Status(u64),
    /// [`crate::Platform::fault_callback`] runs with this number; then the
    /// call is carried out.
    Callback(u32),
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The leaf.
    pub leaf: u16,
    /// The calls.
    pub when: When,
    /// The effect.
    pub action: Action,
}

#[derive(Clone, Debug)]
struct Slot {
    /// 0 = unused; else leaf | kind << 16 | action kind << 24 | parameter << 32.
    head: Word,
    action: Word,
    count: Word,
    fired: Word,
}

impl Slot {
    const fn new() -> Self {
        Slot {
            head: Word::new(0),
            action: Word::new(0),
            count: Word::new(0),
            fired: Word::new(0),
        }
    }
}

/// A plan: a fixed number of rules that can be changed while calls run.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    slots: [Slot; MAX_RULES],
    rng: Word,
    fired: Word,
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self::new()
    }
}

const USED: u64 = 1 << 31;

impl FaultPlan {
    /// An empty plan.
    #[must_use]
    pub const fn new() -> Self {
        FaultPlan {
            slots: [const { Slot::new() }; MAX_RULES],
            rng: Word::new(1),
            fired: Word::new(0),
        }
    }

    /// Sets the seed of the random rules; returns where they were.
    pub fn seed(&self, seed: u64) -> u64 {
        let before = self.rng.get();
        self.rng.set(seed);
        before
    }

    /// Adds a rule. Returns its number, or `None` if the plan is full.
    pub fn add(&self, rule: Rule) -> Option<usize> {
        let (kind, param) = match rule.when {
            When::Nth(n) => (0, u64::from(n)),
            When::From { nth, count } => (3, u64::from(nth) | u64::from(count) << 16),
            When::Every(k) => (1, u64::from(k)),
            When::Random(p) => (2, u64::from(p)),
        };
        let (act, value) = match rule.action {
            Action::Status(s) => (0, s),
            Action::Callback(id) => (1, u64::from(id)),
        };
        let head = u64::from(rule.leaf) | kind << 16 | act << 24 | USED | param << 32;
        let i = self.slots.iter().position(|s| s.head.get() == 0)?;
        let s = &self.slots[i];
        s.count.set(0);
        s.fired.set(0);
        s.action.set(value);
        s.head.set(head);
        Some(i)
    }

    /// Removes all rules.
    pub fn clear(&self) {
        for s in &self.slots {
            s.head.set(0);
        }
    }

    /// The rules that are in use, each with how often it has fired.
    pub fn rules(&self) -> impl Iterator<Item = (Rule, u64)> + '_ {
        self.slots.iter().filter_map(|s| {
            let head = s.head.get();
            let param = (head >> 32) as u32;
            let when = match head >> 16 & 0xFF {
                0 => When::Nth(param),
                1 => When::Every(param),
                2 => When::Random(param as u16),
                _ => When::From {
                    nth: param as u16,
                    count: (param >> 16) as u16,
                },
            };
            let action = if head >> 24 & 0x7F == 0 {
                Action::Status(s.action.get())
            } else {
                Action::Callback(s.action.get() as u32)
            };
            let rule = Rule {
                leaf: head as u16,
                when,
                action,
            };
            (head != 0).then(|| (rule, s.fired.get()))
        })
    }

    /// How often any rule has fired.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.fired.get()
    }

    fn random(&self) -> u16 {
        let x = self.rng.add(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) as u16
    }

    /// The action for the next call of `leaf`, if a rule is for it.
    pub(crate) fn next(&self, leaf: u16) -> Option<Action> {
        let mut hit = None;
        for s in &self.slots {
            let head = s.head.get();
            if head & USED == 0 || head as u16 != leaf {
                continue;
            }
            let n = s.count.add(1) + 1;
            let param = head >> 32;
            let fire = match head >> 16 & 0xFF {
                0 => n == param,
                1 => param != 0 && n % param == 0,
                2 => u64::from(self.random()) < param,
                _ => {
                    let (nth, count) = (param & 0xFFFF, param >> 16);
                    n >= nth && (count == 0 || n - nth < count)
                }
            };
            if !fire || hit.is_some() {
                continue;
            }
            s.fired.add(1);
            self.fired.add(1);
            hit = Some(if head >> 24 & 0x7F == 0 {
                Action::Status(s.action.get())
            } else {
                Action::Callback(s.action.get() as u32)
            });
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(when: When, n: usize) -> std::vec::Vec<usize> {
        let plan = FaultPlan::new();
        plan.seed(42);
        let rule = Rule {
            leaf: 5,
            when,
            action: Action::Status(7),
        };
        assert_eq!(plan.add(rule), Some(0));
        assert_eq!(plan.next(4), None);
        (1..=n).filter(|_| plan.next(5).is_some()).collect()
    }

    #[test]
    fn nth_and_every() {
        assert_eq!(hits(When::Nth(3), 9), [3]);
        let from = |nth, count| hits(When::From { nth, count }, 6);
        assert_eq!(from(3, 1), [3]);
        assert_eq!(from(3, 2), [3, 4]);
        assert_eq!(from(5, 0), [5, 6]);
        assert_eq!(hits(When::Every(3), 9), [3, 6, 9]);
    }

    #[test]
    fn random_is_reproducible() {
        let a = hits(When::Random(0x4000), 400);
        assert_eq!(a, hits(When::Random(0x4000), 400));
        assert!((60..140).contains(&a.len()), "{}", a.len());
    }

    #[test]
    fn full_plan() {
        let plan = FaultPlan::new();
        let rule = Rule {
            leaf: 0,
            when: When::Nth(1),
            action: Action::Callback(3),
        };
        for _ in 0..MAX_RULES {
            assert!(plan.add(rule).is_some());
        }
        assert!(plan.add(rule).is_none());
        assert_eq!(plan.next(0), Some(Action::Callback(3)));
        let rules: std::vec::Vec<_> = plan.rules().collect();
        assert_eq!(rules.len(), MAX_RULES);
        assert_eq!(rules[0], (rule, 1));
        plan.clear();
        assert_eq!(plan.rules().count(), 0);
        assert_eq!(plan.next(0), None);
    }
}
