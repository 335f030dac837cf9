// SPDX-License-Identifier: GPL-2.0
//! What `privmemctl` says of a TD that is lost, and of what the TDX module keeps.

use std::os::fd::AsRawFd;
use std::process::ExitCode;

use selftests::cases;
use selftests::fixtures::{in_movable_zone, two_nodes, PAGE};
use selftests::hostmem::{page_flags, KPF_RESERVED};
use selftests::ktap;
use selftests::tdx::emulator::Faults;
use selftests::tdx::Tdx;
use selftests::tool::{ends, run, tells};
use serde_json::Value;
use tdx_emu_model::regs::op;
use tdx_emu_model::status::{self, with_op};

const PAGES: u64 = 64;

/// What the TDX module says when it refuses.
fn refused() -> u64 {
    with_op(status::PAGE_METADATA_INCORRECT, op::RCX)
}

/// A TD, and the frames of its pages.
fn td() -> (Tdx, Vec<u64>) {
    let tdx = Tdx::on(in_movable_zone(PAGES * PAGE), PAGES, 1).boot();
    let frames = tdx.fd.pages(tdx.all()).unwrap();
    (tdx, frames.into_iter().flatten().collect())
}

/// Frame of the page that is kept, and its place in the file.
fn only_kept(frames: &[u64]) -> (u64, u64) {
    let pages = frames.iter().zip(0..);
    let mut kept = pages.filter(|(frame, _)| page_flags(**frame) & KPF_RESERVED != 0);
    let (frame, page) = kept.next().expect("no page is kept");
    assert!(kept.next().is_none());
    (*frame, page * PAGE)
}

/// A TD that is lost, and the page that can be neither moved nor given back to it.
fn lost() -> (Tdx, (u64, u64)) {
    let (tdx, frames) = td();
    tdx.lose();
    let kept = only_kept(&frames);
    (tdx, kept)
}

/// A TD that runs, some of whose moves were refused.
fn refusing() -> (Tdx, u64) {
    let (tdx, frames) = td();
    let rule = format!(
        "TDH.MEM.PAGE.RELOCATE nth=1 repeat=0 status={:#x}",
        refused()
    );
    let faults = Faults::inject(&rule);
    let moved = tdx.fd.move_range(0..8 * PAGE, None);
    drop(faults);
    assert!(moved.is_err() && !tdx.td.is_dead(), "{moved:?}");
    (tdx, frames[0])
}

/// The findings of which this says that they are meant.
fn findings(answer: &Value, meant: impl Fn(&Value) -> bool) -> Vec<Value> {
    let places = answer["places"].as_array().unwrap().iter();
    let all = places.flat_map(|p| p["findings"].as_array().unwrap());
    all.filter(|f| meant(f)).cloned().collect()
}

/// The only one.
#[track_caller]
fn finding(answer: &Value, meant: impl Fn(&Value) -> bool) -> Value {
    let mut found = findings(answer, meant);
    assert_eq!(found.len(), 1, "{answer:#}");
    found.remove(0)
}

/// Whether it is about a file that this process has open as this.
fn is_of(finding: &Value, fd: &impl AsRawFd) -> bool {
    let owners = finding["files"].as_array().unwrap();
    let is_it = |o: &Value| o["pid"] == std::process::id() && o["fd"] == fd.as_raw_fd();
    owners.iter().any(is_it)
}

/// Panics unless it says of the page what is so.
#[track_caller]
fn is_kept(page: &Value, fd: &impl AsRawFd, offset: u64) {
    assert_eq!(page["what"], "withdrawn: the TDX module keeps them");
    assert_eq!(
        (&page["verdict"], &page["pages"], &page["offset"]),
        (&"never".into(), &1.into(), &offset.into())
    );
    assert!(is_of(page, fd), "{page:#}");
}

/// How a command names the memory blocks of frames.
fn places(frames: &[u64]) -> String {
    let places: Vec<String> = frames.iter().map(|f| format!("{:#x}", f * PAGE)).collect();
    places.join(" ")
}

/// Something else may stay: the kernel has pages at the ends of nodes.
#[track_caller]
fn nothing_is_kept(command: &str) {
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout);
    let told = text.contains("pages ") && !text.contains("lost") && !text.contains("withdrawn");
    assert!(told, "{text}");
}

fn why_names_a_lost_td() {
    let (tdx, (kept, offset)) = lost();
    let (other, elsewhere) = refusing();
    let command = format!("why {}", places(&[kept, elsewhere]));
    let answer = tells(&command, 3);
    let page = finding(&answer, |f| f["frame"] == kept);
    is_kept(&page, &tdx.fd, offset);
    assert!(
        page["reason"].as_str().unwrap().contains("TD is lost"),
        "{page:#}"
    );
    let rest = findings(&answer, |f| is_of(f, &tdx.fd) && f["verdict"] == "perhaps");
    let pages: u64 = rest.iter().map(|f| f["pages"].as_u64().unwrap()).sum();
    assert!((1..PAGES).contains(&pages), "{answer:#}");
    let reason = rest[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("its TD is lost"), "{reason}");
    for finding in findings(&answer, |f| is_of(f, &other.fd)) {
        assert_eq!(finding["verdict"], "yes", "another TD: {finding:#}");
    }
    let text = ends(&command, 3);
    assert!(text.contains("end its VM; KVM frees them then"), "{text}");

    drop(tdx);
    nothing_is_kept(&command);
}

/// The TDX module has moved it, but does not write caches back.
fn why_names_a_page_that_has_moved() {
    let (tdx, frames) = td();
    let rule = format!(
        "TDH.PHYMEM.PAGE.WBINVD nth=1 repeat=0 status={:#x}",
        refused()
    );
    let faults = Faults::inject(&rule);
    assert_eq!(tdx.fd.move_range(tdx.page(5), None).unwrap(), 1);
    drop(faults);
    assert!(!tdx.td.is_dead());
    let (kept, offset) = only_kept(&frames);
    assert_eq!((kept, offset), (frames[5], 5 * PAGE));

    let command = format!("why {}", places(&[kept]));
    let page = finding(&tells(&command, 3), |f| f["frame"] == kept);
    is_kept(&page, &tdx.fd, offset);
    assert!(
        !page["reason"].as_str().unwrap().contains("lost"),
        "{page:#}"
    );

    // The TD still has the file when nobody else has.
    let Tdx { td, fd, .. } = tdx;
    drop(fd);
    let page = finding(&tells(&command, 3), |f| f["frame"] == kept);
    assert_eq!(
        (&page["verdict"], page["files"].as_array().unwrap().len()),
        (&"never".into(), 0)
    );
    let advice = page["advice"].as_str().unwrap();
    assert!(
        advice.starts_with("no process has their file open"),
        "{advice}"
    );
    drop(td);
    nothing_is_kept(&command);
}

fn evacuate_names_a_lost_td() {
    two_nodes();
    let (tdx, (kept, offset)) = lost();
    let place = places(&[kept]);
    let text = ends(&format!("evacuate {place} --offline --timeout 30"), 3);
    assert!(text.starts_with("nothing done"), "{text}");
    let answer = tells(&format!("evacuate {place} --timeout 30"), 3);
    assert_eq!(answer["failed"], 0);
    let page = finding(&answer, |f| f["frame"] == kept);
    is_kept(&page, &tdx.fd, offset);
    let rest = findings(&answer, |f| is_of(f, &tdx.fd) && f["verdict"] == "perhaps");
    let pages: u64 = rest.iter().map(|f| f["pages"].as_u64().unwrap()).sum();
    assert_eq!(answer["left"], pages, "{answer:#}");
    drop(tdx);
    nothing_is_kept(&format!("why {place}"));
}

fn main() -> ExitCode {
    ktap::main(cases![
        "why names a lost TD, and the page that the TDX module keeps" => why_names_a_lost_td,
        "why names a page that was kept when it moved" => why_names_a_page_that_has_moved,
        "evacuate names a lost TD, and ends" => evacuate_names_a_lost_td,
    ])
}
