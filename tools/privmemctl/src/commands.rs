// SPDX-License-Identifier: GPL-2.0
//! One module a subcommand: its arguments and what it does.

pub mod doctor;
pub mod evacuate;
pub mod generate;
pub mod hold;
pub mod latency;
pub mod list;
pub mod move_pages;
pub mod set_state;
pub mod stat;
pub mod trace;
pub mod watch;
pub mod where_is;
pub mod why;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, Context};
use privmemctl::host::compaction_obstacle;
use privmemfd_ioctls::{Refusal, Stat, Zone};

use crate::cli::Command;
use crate::output::{complain, Out};
use crate::End;

pub fn run(command: &Command, out: &mut Out) -> anyhow::Result<End> {
    match command {
        Command::List(args) => list::run(args, out),
        Command::Stat(args) => stat::run(args, out),
        Command::Where(args) => where_is::run(args, out),
        Command::Watch(args) => watch::run(args, out),
        Command::Move(args) => move_pages::run(args, out),
        Command::Why(args) => why::run(args, out),
        Command::Evacuate(args) => evacuate::run(args, out),
        Command::Doctor(args) => doctor::run(args, out),
        Command::Trace(args) => trace::run(args, out),
        Command::Latency(args) => latency::run(args, out),
        Command::Hold(args) => hold::run(args, out),
        Command::Generate(args) => generate::run(args),
        Command::SetState(args) => Ok(set_state::run(args)),
    }
}

/// Pages by zone, for people.
fn by_zone(stat: &Stat) -> String {
    let zones = zones(stat).into_iter().filter(|(_, n)| *n > 0);
    let parts: Vec<String> = zones.map(|(zone, n)| format!("{zone}:{n}")).collect();
    or_dash(&parts)
}

fn zones(stat: &Stat) -> Vec<(&'static str, u64)> {
    let zones = Zone::ALL.into_iter();
    zones.map(|z| (z.name(), stat.in_zone(z))).collect()
}

fn or_dash(parts: &[String]) -> String {
    if parts.is_empty() {
        "-".into()
    } else {
        parts.join(",")
    }
}

/// Refusals by reason, those that have occurred.
fn refused(stat: &Stat) -> BTreeMap<&'static str, u64> {
    let all = Refusal::ALL.into_iter();
    all.map(|r| (r.name(), stat.refused_for(r)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

/// Says, beside what was asked for, what keeps mm from moving pages.
fn note_obstacles() {
    if let Some(obstacle) = compaction_obstacle() {
        complain(&format!("note: {obstacle}"));
    }
}

/// Seconds between two pictures, or of a limit.
fn seconds(name: &str, value: f64) -> anyhow::Result<Duration> {
    if !(0.01..=86400.0).contains(&value) {
        bail!("{name} takes 0.01 to 86400 seconds");
    }
    Ok(Duration::from_secs_f64(value))
}

/// Becomes true when the user has had enough (SIGINT, SIGTERM).
fn interrupted() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, flag.clone()).context("cannot wait for signals")?;
    }
    Ok(flag)
}

fn is_set(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}
