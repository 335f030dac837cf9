// SPDX-License-Identifier: GPL-2.0
//! What TDs need of the software; `tools/tdx-smoke` has the hardware's half.

use std::fs;

use super::Check;

const COUNTERS: [&str; 9] = [
    "relocated",
    "kicks",
    "holds",
    "rollbacks",
    "calls_block",
    "calls_track",
    "calls_relocate",
    "calls_unblock",
    "calls_wbinvd",
];

pub(super) fn checks() -> Vec<Check> {
    let parameter = fs::read_to_string("/sys/module/kvm_intel/parameters/tdx");
    let mut checks = vec![Check::needs(
        "kvm-intel is loaded with tdx=1",
        parameter.is_ok_and(|p| p.trim() == "Y").then(String::new),
        "rmmod kvm_intel; insmod kvm-intel.ko tdx=1 (the one with the series)",
    )];
    for (counter, what, log) in [
        (
            "pages_kept",
            "no page was kept by the TDX module",
            "cannot be taken back",
        ),
        ("tds_lost", "no TD was lost", "is lost"),
    ] {
        checks.push(match number(counter) {
            Some(0) => Check::ok(what, ""),
            Some(n) => Check::missing(what, n.to_string(), format!("dmesg | grep '{log}'")),
            None => Check::missing(what, "no counter", "load privmemfd.ko, mount debugfs"),
        });
    }
    let counters: Vec<String> = COUNTERS
        .iter()
        .filter_map(|name| Some(format!("{name} {}", number(name)?)))
        .collect();
    if !counters.is_empty() {
        checks.push(Check::ok("moves of TDs' pages", counters.join(", ")));
    }
    if fs::read_to_string("/proc/modules")
        .is_ok_and(|m| m.lines().any(|l| l.starts_with("tdxemu ")))
    {
        checks.push(Check::note(
            "the TDX module",
            "tdxemu.ko is loaded: it is a model",
            "",
        ));
    }
    checks
}

fn number(counter: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/sys/kernel/debug/privmemfd/tdx_{counter}"));
    text.ok()?.trim().parse().ok()
}
