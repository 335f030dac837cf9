// SPDX-License-Identifier: GPL-2.0
//! VM entries with an instruction pointer that no guest of this crate has: the host's.
//!
//! The emulated CPU of QEMU saves its own registers as a guest's now and then. Such a guest may
//! end by a triple fault, after which KVM has reset the registers. Only the trace of KVM's
//! entries knows what they were. The test VM has an instance of the tracer that keeps nothing but
//! those (`load_kvm` in `tools/vm/guest/guest.sh`); elsewhere there is none.

use std::fs;

const TRACE: &str = "/sys/kernel/tracing/instances/lost_vcpus/trace";

/// Whether they are traced here.
pub fn are_traced() -> bool {
    fs::exists(TRACE).unwrap_or(false)
}

/// Forgets those that have been.
pub fn forget() {
    // Opened so, a trace is empty. Who may not do that may not read it either.
    let _ = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(TRACE);
}

/// Those that have been since: lines of the trace.
pub fn at_host_addresses() -> Vec<String> {
    let trace = fs::read_to_string(TRACE).unwrap_or_default();
    found(&trace)
}

fn found(trace: &str) -> Vec<String> {
    let entries = trace.lines().filter(|l| l.contains(" kvm_entry: "));
    entries.map(|l| l.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_no_entries() {
        let trace = "# tracer: nop\n#\n#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n\
            \x20          vcpu0-1034    [001] d..1.    71.3: kvm_entry: vcpu 0, rip 0xffffffffa007249c";
        let line = "vcpu0-1034    [001] d..1.    71.3: kvm_entry: vcpu 0, rip 0xffffffffa007249c";
        assert_eq!(found(trace), [line]);
        assert!(found("# tracer: nop\n").is_empty());
    }
}
