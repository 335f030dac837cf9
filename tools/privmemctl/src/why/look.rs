// SPDX-License-Identifier: GPL-2.0
//! Goes through the frames of a place.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::Context;

use super::reasons::{of_the_block, other_pages, private_memory, withdrawn, HostFacts, Withdrawn};
use super::Survey;
use crate::frames::{flags, Flags, Moves, Usage};
use crate::kernel_log::{self, dumps, Kept, KernelLog};
use crate::mappings::for_each_mapped;
use crate::place::Place;
use crate::shares::{FilePages, OpenFile};

/// Looks at places: what is in them, and whether it goes. Needs root.
///
/// # Errors
///
/// What the kernel tells about frames, or a file, cannot be read.
pub fn survey(places: &[Place], files: &[OpenFile], cma: &[Place]) -> anyhow::Result<Vec<Survey>> {
    let ranges: Vec<Range<u64>> = places.iter().map(|p| p.frames.clone()).collect();
    let mut mapped = BTreeMap::new();
    for_each_mapped(&ranges, |pid, frame| {
        *mapped
            .entry(frame)
            .or_insert_with(BTreeMap::new)
            .entry(pid)
            .or_insert(0) += 1;
    });
    let ours: Vec<(&OpenFile, FilePages)> = files
        .iter()
        .map(|file| Ok((file, file.pages_in(&ranges)?)))
        .collect::<anyhow::Result<_>>()
        .context("cannot see where private memory lies")?;
    let lines = KernelLog::whole()
        .map(|mut log| log.lines())
        .unwrap_or_default();
    let kept = kernel_log::kept(&lines);
    let host = HostFacts::read(kernel_log::lost_tds(&lines), kept.len() as u64);
    let log = Log {
        dumps: dumps(&lines),
        kept: kept.into_iter().collect(),
    };
    let look = |place| look_at(place, &ours, &mapped, cma, &log, &host);
    places.iter().map(look).collect()
}

/// What the kernel's log says of frames.
struct Log {
    /// For which it has refused to give a place away, and why.
    dumps: Vec<(u64, String)>,
    /// Which the TDX module has not given back.
    kept: BTreeMap<u64, Kept>,
}

type Mapped = BTreeMap<u64, BTreeMap<i32, u64>>;

fn look_at(
    place: &Place,
    ours: &[(&OpenFile, FilePages)],
    mapped: &Mapped,
    cma: &[Place],
    log: &Log,
    host: &HostFacts,
) -> anyhow::Result<Survey> {
    let offline = place.block.as_ref().is_some_and(|b| !b.online);
    let mut survey = Survey {
        place: place.label.clone(),
        heading: place.to_string(),
        pages: place.frames.end - place.frames.start,
        free: 0,
        offline,
        findings: Vec::new(),
        kernel_refused: Vec::new(),
    };
    if offline {
        return Ok(survey);
    }
    let frames = flags(place.frames.clone())
        .context("cannot read /proc/kpageflags (root, and CONFIG_PROC_PAGE_MONITOR)")?;
    let mut claimed = vec![false; frames.len()];
    for (file, pages) in ours {
        let here: FilePages = pages
            .iter()
            .filter(|(_, frame)| place.frames.contains(frame))
            .copied()
            .collect();
        for (_, frame) in &here {
            claimed[(frame - place.frames.start) as usize] = true;
        }
        if !here.is_empty() {
            survey.findings.push(private_memory(file, &here, host));
        }
    }
    let mut kept: BTreeMap<u64, Withdrawn> = BTreeMap::new();
    let mut kinds: BTreeMap<Usage, (Vec<u64>, BTreeMap<i32, u64>)> = BTreeMap::new();
    for ((frame, flags), claimed) in place.frames.clone().zip(&frames).zip(&claimed) {
        let usage = flags.usage();
        if usage.moves(place.is_movable()) == Moves::Gone && usage != Usage::Hole {
            survey.free += 1;
        } else if let Some(page) = log.kept.get(&frame).filter(|_| usage == Usage::Reserved) {
            kept.entry(page.ino).or_default().add(frame, page.offset);
        } else if !claimed || flags.has_failed() {
            let (frames, pids) = kinds.entry(usage).or_default();
            frames.push(frame);
            // Everybody maps what was there at boot: vDSO and zeroes.
            let mapped = mapped.get(&frame).filter(|_| usage != Usage::Reserved);
            for (pid, pages) in mapped.into_iter().flatten() {
                *pids.entry(*pid).or_default() += pages;
            }
        }
    }
    for (ino, pages) in kept {
        let mut files = ours.iter().map(|(file, _)| *file);
        let file = files.find(|f| f.owners[0].ino == ino);
        survey.findings.push(withdrawn(&pages, file, host));
    }
    for (usage, (frames, pids)) in kinds {
        survey
            .findings
            .push(other_pages(place, usage, &frames, pids, host));
    }
    if let Some(block) = &place.block {
        survey
            .findings
            .extend(of_the_block(place, &block.zone, cma));
    }
    survey.findings.sort_by_key(|f| f.verdict);
    survey.kernel_refused = refusals(place, &log.dumps, &frames);
    Ok(survey)
}

/// Frames that the log names, whose use has not changed into none since then.
fn refusals(place: &Place, log: &[(u64, String)], frames: &[Flags]) -> Vec<(u64, String)> {
    let mut last: BTreeMap<u64, String> = BTreeMap::new();
    for (frame, why) in log {
        if place.frames.contains(frame)
            && frames[(frame - place.frames.start) as usize].usage() != Usage::Free
        {
            last.insert(*frame, why.clone());
        }
    }
    last.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_believed_about_frames_that_are_still_used() {
        let place = Place {
            label: "memory1".into(),
            frames: 100..200,
            node: Some(0),
            block: None,
        };
        let mut frames = vec![Flags(1 << 32); 100];
        frames[5] = Flags(1 << 10);
        let log = [
            (104, "old"),
            (104, "new"),
            (105, "freed"),
            (300, "elsewhere"),
        ]
        .map(|(frame, why)| (frame, why.to_owned()));
        assert_eq!(refusals(&place, &log, &frames), [(104, "new".to_owned())]);
    }
}
