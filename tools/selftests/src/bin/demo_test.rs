// SPDX-License-Identifier: GPL-2.0
//! What the demonstration does to the host's memory, and relies on.

use std::collections::HashMap;
use std::process::ExitCode;

use demo::free_lists;
use demo::hog::{Chunk, HogProcess, Plan, Source, HUGE};
use demo::settings::Settings;
use privmemctl::memory::ShortFreeLists;
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use selftests::cases;
use selftests::fixtures::{two_nodes, PAGE};
use selftests::hostmem::demonstration;
use selftests::ktap::{self, note};
use selftests::leaving::pin;

/// Huge pages' worth of memory.
const CHUNKS: u64 = 32;
const PAGES: usize = (HUGE / PAGE) as usize;

/// Of each huge page that could be, one small page is on the list of a CPU.
fn lists_of_cpus() {
    let program = demonstration();
    let _settings =
        Settings::new(&[("/sys/kernel/mm/transparent_hugepage/defrag", "never")]).unwrap();
    let _lists = ShortFreeLists::new().unwrap();
    let (node, _) = two_nodes();
    let chunks: Vec<_> = (0..CHUNKS)
        .map(|_| Chunk::of_single_pages(Source::Only(node)).unwrap())
        .collect();
    let (mut huge, taken) = HogProcess::start(&program, &Plan::Huge { node }).unwrap();

    let mut blocks: HashMap<u64, Vec<u64>> = HashMap::new();
    for frame in chunks.iter().flat_map(|chunk| chunk.frames().unwrap()) {
        let frame = frame.expect("all is present");
        blocks.entry(frame / PAGES as u64).or_default().push(frame);
    }
    blocks.retain(|_, frames| frames.len() == PAGES);
    let last = |frame: u64| blocks.get(&(frame / PAGES as u64)).map(|frames| frames[0]);
    let all = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
    pin(first).unwrap();
    for chunk in &chunks {
        chunk.give_back(|frame| last(frame) != Some(frame)).unwrap();
    }
    drop(chunks);
    sched_setaffinity(None, &all).unwrap();
    let before = huge.again().unwrap();
    free_lists::put_back(node, CHUNKS * HUGE).unwrap();
    let after = huge.again().unwrap();
    note(format!(
        "{taken} huge pages taken; {} could be, {before} can be had, then {after} more",
        blocks.len()
    ));
    let most = blocks.len() as u64;
    assert!(most >= CHUNKS / 2, "{most} whole blocks of {CHUNKS}");
    assert!(before <= most / 4, "nothing was on a list");
    assert!(after >= most / 2, "the lists still have what was there");
}

fn main() -> ExitCode {
    ktap::main(cases![
        "a CPU puts back the pages on its lists" => lists_of_cpus,
    ])
}
