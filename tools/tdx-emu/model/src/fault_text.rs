// SPDX-License-Identifier: GPL-2.0
//! The fault plan as text: one rule per line.
//!
//! ```text
//! LEAF [nth=N [repeat=K] | every=K | random=P/Q [seed=S]] status=STATUS | delay=MICROSECONDS
//! clear
//! ```
//!
//! LEAF is a name (`TDH.MEM.PAGE.RELOCATE`) or a number. Numbers may be
//! hexadecimal (`0x`). The default is `nth=1 repeat=1`; `repeat=0` is without end.

use core::fmt;

use crate::fault::{Action, FaultPlan, Rule, When};
use crate::regs::{leaf, leaf_name};

/// Longest delay: a CPU with interrupts off for longer looks dead.
const MAX_DELAY_US: u64 = 100_000;
/// Statuses of this class are software's, see Linux's substitutes for a
/// SEAMCALL that traps.
const SOFTWARE_CLASS: u64 = 0xFF << 40;

/// Why a line has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It is no rule.
    Syntax,
    /// The plan is full.
    Full,
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn leaf_number(text: &str) -> Option<u16> {
    let named = leaf::ALL
        .iter()
        .find(|&&n| leaf_name(n).is_some_and(|name| name == text));
    match named {
        Some(&n) => Some(n),
        None => number(text)?.try_into().ok(),
    }
}

fn chance(text: &str) -> Option<u16> {
    let (p, q) = text.split_once('/')?;
    let (p, q) = (number(p)?, number(q)?);
    // The plan counts in parts of 65536.
    let parts = p.checked_mul(1 << 16)?.checked_div(q)?;
    (p <= q).then(|| parts.min(u64::from(u16::MAX)) as u16)
}

#[derive(Default)]
struct Line {
    nth: Option<u16>,
    repeat: Option<u16>,
    every: Option<u32>,
    random: Option<u16>,
    seed: Option<u64>,
    status: Option<u64>,
    delay: Option<u32>,
}

impl Line {
    fn take(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key {
            "nth" => self.nth = Some(number(value)?.try_into().ok()?),
            "repeat" => self.repeat = Some(number(value)?.try_into().ok()?),
            "every" => self.every = Some(number(value)?.try_into().ok()?),
            "random" => self.random = Some(chance(value)?),
            "seed" => self.seed = Some(number(value)?),
            "status" => self.status = Some(number(value)?),
            "delay" => {
                let us = number(value).filter(|&us| us <= MAX_DELAY_US)?;
                self.delay = Some(us as u32);
            }
            _ => return None,
        }
        Some(())
    }

    fn when(&self) -> Option<When> {
        let counted = self.nth.is_some() || self.repeat.is_some();
        match (counted, self.every, self.random) {
            (_, None, None) => {
                let nth = self.nth.unwrap_or(1);
                let count = self.repeat.unwrap_or(1);
                (nth != 0).then_some(When::From { nth, count })
            }
            (false, Some(k), None) => (k != 0).then_some(When::Every(k)),
            (false, None, Some(p)) => Some(When::Random(p)),
            _ => None,
        }
    }

    fn action(&self) -> Option<Action> {
        match (self.status, self.delay) {
            (Some(s), None) => (s & SOFTWARE_CLASS != SOFTWARE_CLASS).then_some(Action::Status(s)),
            (None, Some(us)) => Some(Action::Callback(us)),
            _ => None,
        }
    }
}

fn rule(text: &str) -> Option<(Rule, Option<u64>)> {
    let mut words = text.split_ascii_whitespace();
    let leaf = leaf_number(words.next()?)?;
    let mut line = Line::default();
    for word in words {
        line.take(word)?;
    }
    if line.seed.is_some() && line.random.is_none() {
        return None;
    }
    let (when, action) = (line.when()?, line.action()?);
    Some((Rule { leaf, when, action }, line.seed))
}

impl FaultPlan {
    /// Carries out one line. An empty one does nothing.
    ///
    /// # Errors
    /// See [`Bad`].
    pub fn apply(&self, line: &str) -> Result<(), Bad> {
        match line.trim() {
            "" => {}
            "clear" => self.clear(),
            line => {
                let (rule, seed) = rule(line).ok_or(Bad::Syntax)?;
                // The rule may fire as soon as it is there.
                let before = seed.map(|seed| self.seed(seed));
                if self.add(rule).is_none() {
                    if let Some(seed) = before {
                        self.seed(seed);
                    }
                    return Err(Bad::Full);
                }
            }
        }
        Ok(())
    }

    /// One line per rule, in the form they are written in, with how often each
    /// has fired.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, w: &mut impl fmt::Write) -> fmt::Result {
        for (rule, fired) in self.rules() {
            match leaf_name(rule.leaf) {
                Some(name) => w.write_str(name)?,
                None => write!(w, "LEAF{}", rule.leaf)?,
            }
            match rule.when {
                When::Nth(n) => write!(w, " nth={n} repeat=1")?,
                When::From { nth, count } => write!(w, " nth={nth} repeat={count}")?,
                When::Every(k) => write!(w, " every={k}")?,
                When::Random(p) => write!(w, " random={p}/65536")?,
            }
            match rule.action {
                Action::Status(s) => write!(w, " status={s:#x}")?,
                Action::Callback(us) => write!(w, " delay={us}")?,
            }
            writeln!(w, " fired={fired}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_back_as_they_were_written() {
        let plan = FaultPlan::new();
        for line in [
            "TDH.MEM.TRACK",
            "TDH.MEM.TRACK status=1 delay=1",
            "TDH.MEM.TRACK nth=1 every=2 status=1",
            "TDH.MEM.TRACK seed=1 status=1",
            "TDH.MEM.TRACK status=0xff0000000000",
        ] {
            assert_eq!(plan.apply(line), Err(Bad::Syntax), "{line}");
        }
        for line in [
            "",
            "TDH.MEM.TRACK status=5",
            " 99 random=1/2 seed=3 delay=7 ",
        ] {
            assert_eq!(plan.apply(line), Ok(()), "{line}");
        }
        assert!(plan.next(leaf::MEM_TRACK).is_some());
        let mut text = std::string::String::new();
        plan.write(&mut text).unwrap();
        assert_eq!(
            text,
            "TDH.MEM.TRACK nth=1 repeat=1 status=0x5 fired=1\n\
             LEAF99 random=32768/65536 delay=7 fired=0\n"
        );
        assert_eq!(plan.apply("clear"), Ok(()));
        for _ in 0..crate::fault::MAX_RULES {
            assert_eq!(plan.apply("0 status=1"), Ok(()));
        }
        assert_eq!(plan.apply("0 status=1"), Err(Bad::Full));
        let seed = plan.seed(4);
        let refused = plan.apply("0 random=1/2 seed=9 status=1");
        assert_eq!(refused, Err(Bad::Full));
        assert_eq!(plan.seed(seed), 4, "a rule without room changes nothing");
    }
}
