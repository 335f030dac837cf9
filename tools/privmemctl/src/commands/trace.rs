// SPDX-License-Identifier: GPL-2.0
//! `privmemctl trace`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use privmemctl::owners::{scan, Owner, Selection};
use privmemctl::tracing::{Move, Tracer};
use serde::Serialize;

use super::{interrupted, is_set, seconds};
use crate::cli::MaybeTarget;
use crate::output::{complain, Out};
use crate::End;

/// How often it is looked whether to stop.
pub const TICK: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: MaybeTarget,
    /// Stop after this many lines
    #[arg(long)]
    count: Option<u64>,
    /// Stop after so many seconds
    #[arg(long)]
    seconds: Option<f64>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    moved: &'a Move,
    owner: Option<&'a Owner>,
}

/// Files by inode, learned as they show up.
pub struct Files {
    selection: Selection,
    known: HashMap<u64, Option<Owner>>,
}

impl Files {
    pub fn new(selection: Selection) -> Self {
        Self {
            selection,
            known: HashMap::new(),
        }
    }

    /// Whether moves of this file are asked for.
    pub fn wants(&mut self, ino: u64) -> bool {
        let all = self.selection.is_empty();
        let fits = self
            .owner(ino)
            .cloned()
            .is_some_and(|o| self.selection.fits(&o));
        all || fits
    }

    pub fn owner(&mut self, ino: u64) -> Option<&Owner> {
        let find = || scan().ok()?.into_iter().find(|o| o.ino == ino);
        self.known.entry(ino).or_insert_with(find).as_ref()
    }
}

/// Ends at Ctrl-C, or when the time is over.
pub struct Until {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    end: Option<Instant>,
}

impl Until {
    pub fn new(time: Option<f64>) -> anyhow::Result<Self> {
        let time = time.map(|value| seconds("--seconds", value)).transpose()?;
        Ok(Self {
            stop: interrupted()?,
            end: time.map(|time| Instant::now() + time),
        })
    }

    pub fn is_over(&self) -> bool {
        is_set(&self.stop) || self.end.is_some_and(|end| Instant::now() >= end)
    }
}

pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<End> {
    let until = Until::new(args.seconds)?;
    let mut files = Files::new(args.target.selection());
    let mut tracer = Tracer::start()?;
    // Whoever starts it from a program waits for this.
    complain("tracing; Ctrl-C ends it");
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && !until.is_over() {
        for moved in tracer.next(TICK)? {
            if left == 0 {
                break;
            }
            if !files.wants(moved.ino) {
                continue;
            }
            let owner = files.owner(moved.ino);
            let text = text(&moved, owner);
            out.put_line(
                &Line {
                    moved: &moved,
                    owner,
                },
                &text,
            )?;
            left -= 1;
        }
    }
    Ok(End::Well)
}

fn text(m: &Move, owner: Option<&Owner>) -> String {
    let who = match owner {
        Some(o) => format!("{}({}) fd {}", o.comm, o.pid, o.fd),
        None => format!("inode {}", m.ino),
    };
    let frame = |frame: Option<u64>| frame.map_or("?".into(), |f| format!("{f:#x}"));
    let end = match m.result {
        0 => "moved".into(),
        errno => {
            let error = std::io::Error::from_raw_os_error(-errno);
            format!("refused: {} ({error})", m.refused)
        }
    };
    format!(
        "{:>12.6} {who} page {} {} -> {} {} {} {:.1} us {end}",
        m.time,
        m.index,
        frame(m.from),
        frame(m.to),
        m.cause,
        m.backend,
        m.ns as f64 / 1000.0,
    )
}
