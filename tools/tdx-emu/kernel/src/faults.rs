// SPDX-License-Identifier: GPL-2.0

//! The fault plan as text: one rule per line.
//!
//! ```text
//! LEAF [nth=N [repeat=K] | every=K | random=P/Q [seed=S]] status=STATUS | delay=MICROSECONDS
//! clear
//! ```
//!
//! LEAF is a name (`TDH.MEM.PAGE.RELOCATE`) or a number. Numbers may be hexadecimal (`0x`). The
//! default is `nth=1 repeat=1`; `repeat=0` is without end. A delay is spent with interrupts off
//! before the call is carried out.

use crate::{
    counters::LeafName,
    emulator::module, //
};
use kernel::{
    fmt,
    prelude::*, //
};
use tdx_emu_model::{
    fault::{
        Action,
        Rule,
        When, //
    },
    regs::{
        leaf,
        leaf_name, //
    }, //
};

/// Longest delay: a CPU with interrupts off for longer looks dead.
const MAX_DELAY_US: u64 = 100_000;
/// Statuses of this class are software's, see Linux's substitutes for a SEAMCALL that traps.
const SOFTWARE_CLASS: u64 = 0xff << 40;

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

/// Carries out what was written to the file, up to the first line that is not understood.
///
/// # Errors
///
/// `EINVAL`: such a line. `ENOSPC`: the plan is full.
pub(crate) fn apply(text: &str) -> Result {
    let plan = &module().faults;
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if line == "clear" {
            plan.clear();
            continue;
        }
        let Some((rule, seed)) = rule(line) else {
            pr_warn!("not a fault rule: {line}\n");
            return Err(EINVAL);
        };
        if let Some(seed) = seed {
            plan.seed(seed);
        }
        if plan.add(rule).is_none() {
            pr_warn!("no room for another fault rule\n");
            return Err(ENOSPC);
        }
    }
    Ok(())
}

/// One line per rule, in the form they are written in, with how often each has fired.
pub(crate) fn show(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (rule, fired) in module().faults.rules() {
        write!(f, "{}", LeafName(rule.leaf))?;
        match rule.when {
            When::Nth(n) => write!(f, " nth={n} repeat=1")?,
            When::From { nth, count } => write!(f, " nth={nth} repeat={count}")?,
            When::Every(k) => write!(f, " every={k}")?,
            When::Random(p) => write!(f, " random={p}/65536")?,
        }
        match rule.action {
            Action::Status(s) => write!(f, " status={s:#x}")?,
            Action::Callback(us) => write!(f, " delay={us}")?,
        }
        writeln!(f, " fired={fired}")?;
    }
    Ok(())
}
