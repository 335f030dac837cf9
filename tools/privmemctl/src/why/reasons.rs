// SPDX-License-Identifier: GPL-2.0
//! What pages of a kind mean for their place, and what to do about them.

use std::collections::BTreeMap;
use std::fs;

use privmemfd_ioctls::{Mobility, Refusal, Stat, PAGE_SIZE};

use super::{Finding, Mapper};
use crate::draw::number;
use crate::frames::{cgroup, Moves, Usage};
use crate::mappings::by_pages;
use crate::owners::{comm, open_as, processes, GMEM_LINK};
use crate::place::Place;
use crate::shares::OpenFile;

const COUNTERS: &str = "/sys/kernel/debug/privmemfd";

/// What is the same for all places.
pub(super) struct HostFacts {
    /// Files of TDs that the log calls lost.
    lost: Vec<u64>,
    /// Others were lost, of which the log has been overwritten.
    more_lost: bool,
    /// How many pages the TDX module has kept of which the log tells no more.
    more_kept: u64,
    guest_memfds: Vec<i32>,
}

impl HostFacts {
    /// Whether a TD with memory of the file was lost.
    fn has_lost(&self, file: &OpenFile) -> bool {
        self.lost.contains(&file.owners[0].ino)
    }

    /// Of the kernel's log: files of lost TDs, and how often it tells of pages that were kept.
    pub(super) fn read(lost: Vec<u64>, kept: u64) -> Self {
        let counter = |name: &str| {
            let text = fs::read_to_string(format!("{COUNTERS}/{name}")).ok();
            text.and_then(|t| t.trim().parse().ok()).unwrap_or(0)
        };
        let mut guest_memfds = processes().unwrap_or_default();
        guest_memfds.retain(|pid| !open_as(*pid, GMEM_LINK).is_empty());
        Self {
            more_lost: counter("tdx_tds_lost") > lost.len() as u64,
            lost,
            more_kept: counter("tdx_pages_kept").saturating_sub(kept),
            guest_memfds,
        }
    }
}

pub(super) fn private_memory(file: &OpenFile, here: &[(u64, u64)], host: &HostFacts) -> Finding {
    let stat = &file.stat;
    let refused = refusal_text(stat);
    let lost = host.has_lost(file);
    let perhaps_lost = host.more_lost && stat.refused_for(Refusal::Guest) > 0;
    let (verdict, reason, advice) = match stat.mobility() {
        Some(Mobility::Pinned) => (
            Moves::Never,
            "pinned: nothing moves these pages, and a request to take the block offline waits for ever"
                .into(),
            "end the process, or have it make its memory movable when it starts again".into(),
        ),
        _ if lost => (
            Moves::Perhaps,
            format!("its TD is lost, and the TDX module may refuse to move them (refused {refused})"),
            "end its VM, if it has not ended since".into(),
        ),
        _ if perhaps_lost => (
            Moves::Perhaps,
            format!("a TD is lost, and moves were refused ({refused})"),
            "end the VM if it is that one (its log says that it must not run)".into(),
        ),
        _ => (
            Moves::Yes,
            format!("moved {} times so far, refused {refused}", number(stat.relocated)),
            String::new(),
        ),
    };
    let vms = match stat.vms {
        0 => "of no VM".into(),
        1 => "of a VM".into(),
        n => format!("of {n} VMs"),
    };
    Finding {
        verdict,
        pages: here.len() as u64,
        what: format!("private memory {vms}"),
        frame: here.iter().map(|(_, frame)| *frame).min().unwrap_or(0),
        files: file.owners.clone(),
        offset: here.first().map(|(page, _)| page * PAGE_SIZE),
        processes: Vec::new(),
        cgroup: here.first().and_then(|(_, frame)| cgroup(*frame)),
        reason,
        advice,
    }
}

/// How often a file's pages did not move, by reason: `guest 3, busy 1`, or `never`.
fn refusal_text(stat: &Stat) -> String {
    let parts: Vec<String> = Refusal::ALL
        .into_iter()
        .filter(|r| stat.refused_for(*r) > 0)
        .map(|r| format!("{} {}", r.name(), number(stat.refused_for(r))))
        .collect();
    if parts.is_empty() {
        return "never".into();
    }
    parts.join(", ")
}

pub(super) fn other_pages(
    place: &Place,
    usage: Usage,
    frames: &[u64],
    pids: BTreeMap<i32, u64>,
    host: &HostFacts,
) -> Finding {
    let mut verdict = usage.moves(place.is_movable());
    let (reason, advice) = match usage {
        Usage::Failed => (
            "mm passes over it when the block goes offline".into(),
            "the place cannot be used as before: replace the memory".into(),
        ),
        Usage::Reserved if host.more_kept > 0 => (
            format!(
                "taken at boot, or withdrawn: the TDX module has kept {} pages of TDs that the \
                 kernel's log does not name any more",
                number(host.more_kept)
            ),
            "end the VM of such a TD; KVM frees them then".into(),
        ),
        Usage::Reserved => (
            "the kernel has taken it at boot".into(),
            "boot with less in this zone (movable_node, movablecore=), or choose another block".into(),
        ),
        Usage::Unevictable => (
            if host.guest_memfds.is_empty() {
                "a file nobody maps: ramfs, or a privmemfd that only a memslot still has".into()
            } else {
                let who: Vec<String> = host
                    .guest_memfds
                    .iter()
                    .map(|pid| format!("{} (pid {pid})", comm(*pid)))
                    .collect();
                format!(
                    "a file nobody maps: ramfs, or a guest_memfd of KVM's own, which does not move; \
                     such are open in {}",
                    who.join(", ")
                )
            },
            "load privmemfd with serve_all=1 before these VMs start".into(),
        ),
        Usage::Hole => {
            verdict = Moves::Never;
            (
                "the block has holes, and such a block does not go offline".into(),
                "choose another block".into(),
            )
        }
        Usage::Slab | Usage::PageTables | Usage::Kernel => (
            "the kernel's own pages do not move".into(),
            "memory for movable pages only never has them: boot with movablecore= or movable_node, \
             or bring memory online as online_movable"
                .into(),
        ),
        Usage::Untyped => (
            "the kernel does not say which; its own pages do not move".into(),
            "try: privmemctl evacuate --offline names the page that is refused".into(),
        ),
        Usage::Driver => ("its driver may give it back when it is asked".into(), String::new()),
        Usage::Anonymous | Usage::File | Usage::HugePages => (
            String::new(),
            String::new(),
        ),
        Usage::Free => (String::new(), String::new()),
    };
    Finding {
        verdict,
        pages: frames.len() as u64,
        what: usage.name().into(),
        frame: frames.first().copied().unwrap_or(0),
        files: Vec::new(),
        offset: None,
        processes: by_pages(pids)
            .into_iter()
            .map(|(pid, pages)| Mapper {
                pid,
                comm: comm(pid),
                pages,
            })
            .collect(),
        cgroup: frames.first().and_then(|frame| cgroup(*frame)),
        reason,
        advice,
    }
}

/// Pages that the TDX module has not given back, and that have left the same file.
#[derive(Debug, Default)]
pub(super) struct Withdrawn {
    frames: Vec<u64>,
    offset: Option<u64>,
}

impl Withdrawn {
    /// The page of this frame, which was at this byte of the file.
    pub(super) fn add(&mut self, frame: u64, offset: u64) {
        self.frames.push(frame);
        self.offset = Some(self.offset.map_or(offset, |first| first.min(offset)));
    }
}

/// `file` is `None` if no process has it open.
pub(super) fn withdrawn(pages: &Withdrawn, file: Option<&OpenFile>, host: &HostFacts) -> Finding {
    let lost = file.is_some_and(|file| host.has_lost(file));
    Finding {
        verdict: Moves::Never,
        pages: pages.frames.len() as u64,
        what: "withdrawn: the TDX module keeps them".into(),
        frame: pages.frames.iter().copied().min().unwrap_or(0),
        files: file.map(|f| f.owners.clone()).unwrap_or_default(),
        offset: pages.offset.filter(|_| file.is_some()),
        processes: Vec::new(),
        cgroup: None,
        reason: if lost {
            "their TD is lost: a move has failed, and could not be undone".into()
        } else {
            "a move of them has not ended as it should: only the end of their TD gives them back"
                .into()
        },
        advice: if file.is_some() {
            "end its VM; KVM frees them then".into()
        } else {
            "no process has their file open any more: end the VM whose memory it was".into()
        },
    }
}

/// What is wrong with a block as such.
pub(super) fn of_the_block(place: &Place, zone: &str, cma: &[Place]) -> Vec<Finding> {
    let finding = |pages, what: String, frame, reason: &str, advice: &str| Finding {
        verdict: Moves::Never,
        pages,
        what,
        frame,
        files: Vec::new(),
        offset: None,
        processes: Vec::new(),
        cgroup: None,
        reason: reason.into(),
        advice: advice.into(),
    };
    let (start, end) = (place.frames.start, place.frames.end);
    let mut found = Vec::new();
    if zone == "none" {
        found.push(finding(
            end - start,
            "a block of several zones".into(),
            start,
            "mm takes only blocks of one zone offline",
            "choose another block; movablecore= in multiples of the block size avoids such",
        ));
    }
    for area in cma {
        let (first, last) = (area.frames.start.max(start), area.frames.end.min(end));
        if first < last {
            found.push(finding(
                last - first,
                area.label.clone(),
                first,
                "mm takes no block with a CMA area offline",
                "choose another block, or boot with cma=0",
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Block;

    fn place(zone: &str) -> Place {
        Place {
            label: "memory1".into(),
            frames: 100..200,
            node: Some(0),
            block: Some(Block {
                index: 1,
                node: Some(0),
                zone: zone.into(),
                online: true,
            }),
        }
    }

    #[test]
    fn a_block_of_several_zones_and_one_with_a_cma_area_stay() {
        let cma = Place {
            label: "CMA area x".into(),
            frames: 150..300,
            block: None,
            node: None,
        };
        assert!(of_the_block(&place("Movable"), "Movable", &[]).is_empty());
        let found = of_the_block(&place("none"), "none", &[cma]);
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].pages, found[1].frame), (50, 150));
    }
}
