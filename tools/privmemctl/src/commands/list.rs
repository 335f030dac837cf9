// SPDX-License-Identifier: GPL-2.0
//! `privmemctl list`.

use privmemctl::draw::bytes;
use privmemctl::memory::MemoryMap;
use privmemctl::owners::{reach, scan, Owner};
use privmemfd_ioctls::{PrivMemFd, Stat};
use serde::Serialize;

use super::{by_zone, note_obstacles, or_dash, stat::Counters};
use crate::cli::MaybeTarget;
use crate::output::Out;
use crate::End;

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    owner: Owner,
    nodes: Vec<(u32, u64)>,
    #[serde(flatten)]
    counters: Option<Counters>,
    error: Option<String>,
}

pub fn run(target: &MaybeTarget, out: &mut Out) -> anyhow::Result<End> {
    let selection = target.selection();
    let owners = scan()?.into_iter().filter(|o| selection.fits(o));
    let mut rows = Vec::new();
    let mut text = format!(
        "{:>7} {:<15} {:>4} {:>9} {:>9} {:<16} {:<20} {:>3} {:>10}\n",
        "PID", "COMM", "FD", "SIZE", "PAGES", "NODES", "ZONES", "VMS", "RELOCATED"
    );
    for owner in owners {
        let found = reach(owner.pid, owner.fd).and_then(|f| Ok((f.stat()?, by_node(&f)?)));
        text += &line(&owner, &found);
        let (counters, nodes, error) = match found {
            Ok((stat, nodes)) => (Some(Counters::from(&stat)), nodes, None),
            Err(e) => (None, Vec::new(), Some(format!("{e:#}"))),
        };
        rows.push(Row {
            owner,
            nodes,
            counters,
            error,
        });
    }
    out.put(&rows, |w| w.write_all(text.as_bytes()))?;
    note_obstacles();
    Ok(End::Well)
}

fn line(owner: &Owner, found: &anyhow::Result<(Stat, Vec<(u32, u64)>)>) -> String {
    let name = format!("{:>7} {:<15} {:>4} ", owner.pid, owner.comm, owner.fd);
    match found {
        Ok((s, nodes)) => {
            let nodes: Vec<String> = nodes.iter().map(|(n, p)| format!("{n}:{p}")).collect();
            format!(
                "{name}{:>9} {:>9} {:<16} {:<20} {:>3} {:>10}\n",
                bytes(s.size),
                s.pages,
                or_dash(&nodes),
                by_zone(s),
                s.vms,
                s.relocated
            )
        }
        Err(e) => format!("{name}{e:#}\n"),
    }
}

fn by_node(file: &PrivMemFd) -> anyhow::Result<Vec<(u32, u64)>> {
    let mut nodes = Vec::new();
    for node in MemoryMap::read().map(|m| m.nodes()).unwrap_or_default() {
        let pages = file.stat_node(node)?.pages;
        if pages > 0 {
            nodes.push((node, pages));
        }
    }
    Ok(nodes)
}
