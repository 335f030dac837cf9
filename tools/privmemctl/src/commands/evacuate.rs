// SPDX-License-Identifier: GPL-2.0
//! `privmemctl evacuate`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::bail;
use privmemctl::clear::{clear, free_on, left_in, mib, movable_there, other_nodes, Cleared};
use privmemctl::draw::{bytes, number};
use privmemctl::frames::Moves;
use privmemctl::memory::MemoryMap;
use privmemctl::offline::{take_offline, Refused};
use privmemctl::place::{self, Place};
use privmemctl::shares::OpenFile;
use privmemctl::why::{survey, Finding, Survey};
use serde::Serialize;

use super::why::Places;
use crate::output::{Out, Ticker};
use crate::End;

pub const EXIT_STATUS: &str = "\
EXIT STATUS
  0  all private memory has left the place; with --offline, it is offline
  1  a request failed; the message says which
  2  wrong arguments
  3  something stays: private memory or, with --offline or --dry-run, other \
pages; all are named
  4  the time was over; run it again to go on";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    places: Places,
    /// Take the memory blocks offline afterwards
    #[arg(long, conflicts_with = "cma")]
    offline: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Seconds after which it ends; without, an offline request may wait for ever
    #[arg(long)]
    timeout: Option<f64>,
    /// Move to this node; if not given, to the nearest other one that has memory
    #[arg(long)]
    to: Option<u32>,
}

/// What has been done, for programs.
#[derive(Debug, Default, Serialize)]
struct Answer {
    dry_run: bool,
    /// Pages of movable files there in the beginning, and at the end.
    pages: u64,
    left: u64,
    moved: u64,
    /// Pages that are lost: their memory has failed.
    failed: u64,
    seconds: f64,
    pages_per_second: f64,
    not_moved: Vec<(String, u64)>,
    offline: Vec<String>,
    refused: Vec<(String, String)>,
    out_of_time: bool,
    places: Vec<Survey>,
}

pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<End> {
    let timeout = match args.timeout {
        Some(value) => Some(super::seconds("--timeout", value)?),
        None => None,
    };
    let mut places = args.places.find()?;
    places.retain(|p| p.block.as_ref().is_none_or(|b| b.online));
    let map = MemoryMap::read().ok();
    let parts = parts(args, map.as_ref(), &places)?;
    let begun = Instant::now();
    let mut work = Work {
        deadline: timeout.map(|t| begun + t),
        begun,
        answer: Answer {
            dry_run: args.dry_run,
            pages: left_in(&places)?,
            ..Answer::default()
        },
        text: String::new(),
        stays: false,
    };
    if places.is_empty() {
        work.say("offline already");
    } else if args.dry_run {
        work.plan(&parts, args.offline)?;
    } else {
        work.do_it(&places, &parts, args.offline)?;
    }
    let answer = &mut work.answer;
    answer.seconds = begun.elapsed().as_secs_f64();
    answer.pages_per_second = answer.moved as f64 / answer.seconds.max(1e-6);
    out.put(&work.answer, |w| w.write_all(work.text.as_bytes()))?;
    Ok(if work.answer.out_of_time {
        End::OutOfTime
    } else if work.stays {
        End::Stays
    } else {
        End::Well
    })
}

/// Places, and the nodes to which they are cleared; `None` is their own.
#[derive(Debug, PartialEq)]
struct Part {
    places: Vec<Place>,
    nodes: Vec<Option<u32>>,
}

fn parts(args: &Args, map: Option<&MemoryMap>, places: &[Place]) -> anyhow::Result<Vec<Part>> {
    if let Some(node) = args.to {
        let known = map.map(MemoryMap::nodes).unwrap_or_default();
        if !known.contains(&node) {
            bail!("--to {node}: no such node with memory; nodes are {known:?}");
        }
        if places.iter().any(|p| p.node == Some(node)) {
            bail!("--to {node}: that is where it is to leave; pages would come back");
        }
        return Ok(vec![Part {
            places: places.to_vec(),
            nodes: vec![Some(node)],
        }]);
    }
    let others = |places: &[Place]| -> Vec<Option<u32>> {
        let nodes = map.map(|m| other_nodes(m, places)).unwrap_or_default();
        nodes.into_iter().map(Some).collect()
    };
    if args.places.cma {
        return Ok(areas(places, others));
    }
    let nodes = others(places);
    if nodes.is_empty() && !args.offline && !places.is_empty() {
        bail!(
            "no other node has memory, and within a node pages would come back: use --offline, \
             which keeps the place closed meanwhile"
        );
    }
    Ok(vec![Part {
        places: places.to_vec(),
        nodes,
    }])
}

/// CMA areas node by node: each node may have one, and new pages get into it only when there
/// is little else. So where there is no other node, its other memory does as well.
fn areas(places: &[Place], others: impl Fn(&[Place]) -> Vec<Option<u32>>) -> Vec<Part> {
    let nodes: BTreeSet<Option<u32>> = places.iter().map(|p| p.node).collect();
    let part = |node| {
        let here = places.iter().filter(|p| p.node == node);
        let places: Vec<Place> = here.cloned().collect();
        let mut nodes = others(&places);
        if nodes.is_empty() {
            nodes.push(None);
        }
        Part { places, nodes }
    };
    nodes.into_iter().map(part).collect()
}

struct Work {
    deadline: Option<Instant>,
    begun: Instant,
    answer: Answer,
    text: String,
    stays: bool,
}

impl Work {
    fn say(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    fn plan(&mut self, parts: &[Part], offline: bool) -> anyhow::Result<()> {
        let mut places = Vec::new();
        for part in parts {
            for (file, pages) in movable_there(&part.places)? {
                let count = number(pages.len() as u64);
                self.say(&format!("would move {count} pages of {}", file.owners[0]));
            }
            for node in &part.nodes {
                self.say(&match node {
                    Some(node) => {
                        let free = bytes(free_on(*node));
                        format!("to node {node}, which has {free} free")
                    }
                    None => "to other memory of the same node".into(),
                });
            }
            places.extend(part.places.iter().cloned());
        }
        if offline {
            let blocks: Vec<&str> = places.iter().map(|p| p.label.as_str()).collect();
            self.say(&format!("then take offline: {}", blocks.join(", ")));
        }
        self.answer.left = self.answer.pages;
        let surveys = look(&places)?;
        self.stays = surveys.iter().any(Survey::stays);
        self.name(surveys, may_stay);
        Ok(())
    }

    fn do_it(&mut self, places: &[Place], parts: &[Part], offline: bool) -> anyhow::Result<()> {
        if offline && self.refuse_what_waits_for_ever(places)? {
            return Ok(());
        }
        let cleared = self.clear(places, parts)?;
        self.tell(&cleared);
        if self.answer.out_of_time {
            return Ok(());
        }
        if offline {
            for place in places {
                self.take_offline(place)?;
                if self.answer.out_of_time {
                    break;
                }
            }
        }
        self.answer.left = left_in(places)?;
        let ours_stay = self.answer.left > 0 && !self.answer.out_of_time;
        if ours_stay && !offline {
            self.stays = true;
            let left = number(self.answer.left);
            self.say(&format!("{left} pages of private memory are left"));
        }
        if self.stays || !offline {
            let mut online = places.to_vec();
            online.retain(|p| !self.answer.offline.contains(&p.label));
            let surveys = look(&online)?;
            // Others' pages are no failure where only ours were to go.
            self.stays |= surveys
                .iter()
                .any(|s| s.findings.iter().any(|f| !f.files.is_empty()));
            self.name(surveys, may_stay);
        }
        Ok(())
    }

    fn clear(&self, places: &[Place], parts: &[Part]) -> anyhow::Result<Cleared> {
        let mut all = Cleared::default();
        for part in parts.iter().filter(|p| !p.nodes.is_empty()) {
            let mut ticker = Ticker::new();
            let done = clear(&part.places, &part.nodes, self.deadline, |p| {
                ticker.tick(|| {
                    let (moved, total) = (number(p.moved), number(p.total));
                    let rate = mib(p.rate());
                    format!("{moved} of {total} pages moved, {rate:.1} MiB/s")
                });
            })?;
            all.add(done);
        }
        if !all.out_of_time {
            // What has left one place may have come to another.
            all.left = left_in(places)?;
        }
        Ok(all)
    }

    fn tell(&mut self, cleared: &Cleared) {
        self.answer.moved = cleared.moved;
        self.answer.out_of_time = cleared.out_of_time;
        self.answer.left = cleared.left;
        let elapsed = self.begun.elapsed().as_secs_f64().max(1e-6);
        let rate = cleared.moved as f64 / elapsed;
        self.say(&format!(
            "{} pages moved in {elapsed:.2} s, {:.1} MiB/s",
            number(cleared.moved),
            mib(rate)
        ));
        self.answer.failed = cleared.failed;
        if cleared.failed > 0 {
            self.stays = true;
            let failed = number(cleared.failed);
            self.say(&format!("{failed} are lost: their memory has failed"));
        }
        if cleared.left > 0 {
            for (why, pages) in &cleared.last.stuck {
                self.answer.not_moved.push((why.to_string(), *pages));
            }
            for (why, pages) in self.answer.not_moved.clone() {
                self.say(&format!("{} did not move: {why}", number(pages)));
            }
        }
        if cleared.out_of_time {
            let left = number(cleared.left);
            self.say(&format!(
                "the time is over, {left} pages are left; run it again to go on"
            ));
        }
    }

    /// Pinned memory makes a request to go offline wait until it is killed.
    fn refuse_what_waits_for_ever(&mut self, places: &[Place]) -> anyhow::Result<bool> {
        let surveys = look(places)?;
        let known = surveys.iter().any(Survey::stays);
        if known {
            self.stays = true;
            self.answer.left = self.answer.pages;
            self.say("nothing done: what stays keeps the place from going offline");
            self.name(surveys, may_stay);
        }
        Ok(known)
    }

    fn take_offline(&mut self, place: &Place) -> anyhow::Result<()> {
        let Some(block) = &place.block else {
            return Ok(());
        };
        let one = std::slice::from_ref(place);
        let mut ticker = Ticker::new();
        let mut looked = Instant::now();
        let mut left = left_in(one)?;
        let result = take_offline(block, self.deadline, || {
            if looked.elapsed() > Duration::from_millis(500) {
                looked = Instant::now();
                left = left_in(one).unwrap_or(left);
            }
            ticker.tick(|| {
                format!(
                    "{} goes offline, {} pages of ours left",
                    place.label,
                    number(left)
                )
            });
        });
        drop(ticker);
        match result {
            Ok(()) => {
                self.say(&format!("{} is offline", place.label));
                self.answer.offline.push(place.label.clone());
            }
            Err(Refused::OutOfTime) => {
                self.answer.out_of_time = true;
                self.say(&format!(
                    "{} is not offline: the time is over; run it again to go on",
                    place.label
                ));
                self.say(
                    "what is there still is held by something (VFIO, RDMA, io_uring, a pipe), \
                     or there was too little time:",
                );
                let surveys = look(one)?;
                self.name(surveys, |_| true);
            }
            Err(Refused::Kernel(error, dumped)) => {
                self.stays = true;
                let why = match dumped {
                    Some((frame, why)) => {
                        format!("{error}; the kernel names frame {frame:#x}: {why}")
                    }
                    None => error.to_string(),
                };
                self.say(&format!("{} is not offline: {why}", place.label));
                self.answer.refused.push((place.label.clone(), why));
            }
        }
        Ok(())
    }

    /// Names what is there, as far as `named` says.
    fn name(&mut self, mut surveys: Vec<Survey>, named: impl Fn(&Finding) -> bool) {
        for survey in &mut surveys {
            survey.findings.retain(&named);
            let mut text = Vec::new();
            if !survey.findings.is_empty() && survey.write(&mut text).is_ok() {
                self.text += &String::from_utf8_lossy(&text);
            }
        }
        self.answer.places.append(&mut surveys);
    }
}

/// Whether mm does not simply move it, or it is ours.
fn may_stay(finding: &Finding) -> bool {
    finding.verdict != Moves::Yes || !finding.files.is_empty()
}

fn look(places: &[Place]) -> anyhow::Result<Vec<Survey>> {
    let cma = place::cma(None).unwrap_or_default();
    survey(places, &OpenFile::all()?, &cma)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_cleared_to_other_nodes_each_or_within_the_only_one() {
        let area = |node| Place {
            label: "CMA area x".into(),
            frames: 0..1,
            block: None,
            node: Some(node),
        };
        let places = [area(0), area(1), area(0)];
        let others = |all: &'static [u32]| {
            move |here: &[Place]| {
                let other = all.iter().filter(|n| Some(**n) != here[0].node);
                other.copied().map(Some).collect::<Vec<_>>()
            }
        };
        let part = |places: &[Place], nodes: &[Option<u32>]| Part {
            places: places.to_vec(),
            nodes: nodes.to_vec(),
        };
        let (zero, one) = ([area(0), area(0)], [area(1)]);
        assert_eq!(
            areas(&places, others(&[0, 1])),
            [part(&zero, &[Some(1)]), part(&one, &[Some(0)])]
        );
        assert_eq!(areas(&zero, others(&[0])), [part(&zero, &[None])]);
    }
}
