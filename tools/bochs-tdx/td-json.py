#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""td-json.py OUT PARTS TARGET RELOCATIONS: td.json of a run of jobs/linux.sh.

Reads what the machine has left in OUT. Exits with 1, after a line for each reason, if the
run is not what `make td` promises: pages or KeyIDs that have not come back, a mismatch, a
kernel that complains, fewer RELOCATIONS, measurements that are not those of the firmware's
file and of the event log.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import measured
import summary

HERE = Path(__file__).resolve().parent
REPORTS = HERE.parent / "vm" / "kernel-reports"
# What a guest says of a VMM or a module that does not do what it should.
COMPLAINTS = re.compile(
    r"unchecked MSR access|VMM did not|Unexpected #VE|APIC ID mismatch|\[Firmware Bug\]|\[Hardware Error\]|"
    r"TDVMCALL.*(?:fail|error)|TDCALL.*(?:fail|error)|tdx: .*(?:fail|error)|Failed to accept memory|"
    r"swiotlb.*(?:fail|Fail|full)|Call Trace",
)
# OVMF hands over its log of final events as a TPM's, which Linux cannot read.
HARMLESS = re.compile(r"Failed to parse event in TPM Final Events Log")


def reports(log):
    """How many reports the kernel of this log has made; shown if there are any."""
    got = subprocess.run([REPORTS, log], capture_output=True, text=True, check=False)
    if got.returncode:
        print(got.stdout, got.stderr, sep="", file=sys.stderr)
    found = re.search(r"kernel reports: (\d+)", got.stdout)
    return int(found.group(1)) if found else -1


def complaints(log):
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if COMPLAINTS.search(line) and not HARMLESS.search(line)]


def counters(path):
    return {name: int(value) for name, _, value in (line.partition(" ") for line in path.read_text().splitlines())}


def measurements(host, image):
    """Registers as the TD read them and as they have to be, by name."""
    read, events = {}, []
    for line in host["lines"]:
        kind, _, rest = line.partition(" ")
        name, _, value = rest.partition(" ")
        if kind == "report":
            read[name] = value
        elif kind == "event":
            events.append((int(name), value))
    want = {"mrtd": measured.mrtd(image)}
    want.update({f"rtmr{i}": value for i, value in enumerate(measured.rtmrs(events))})
    return {name: {"read": read.get(name), "computed": value} for name, value in want.items()}, len(events)


def of_host(out, host, least):
    """What the host and the TDX module say, and what is wrong with it."""
    count = counters(out / "counters")
    good, bad, _, injected, _, guests = summary.read_calls(out / "seamcalls.jsonl")
    given, taken = (sum(good[n] for n in names) for names in (summary.GIVEN, summary.TAKEN))
    result = {
        "relocated_pages": host["relocated_pages"],
        "relocated_in": host["phases"],
        "seamcalls": dict(sorted(good.items())),
        "injected_faults": dict(sorted(injected.items())),
        "kicks": count["tdx_kicks"],
        "refused": host["refused"],
        "offlined_blocks": host["offlined_blocks"],
        "blocks_that_stayed": host["blocks_that_stayed"],
        "leaked_pages": given - taken,
        "kept_pages": count["tdx_pages_kept"],
        "tds_lost": count["tdx_tds_lost"],
        "kernel_reports": reports(out / "dmesg.log"),
        **guests,
    }
    problems = [f"{n} times {what}" for what, n in bad.items()]
    problems += not_zero(result, "leaked_pages", "kept_pages", "tds_lost", "kernel_reports")
    if not good["MNG.CREATE"] or good["MNG.CREATE"] != good["MNG.KEY.FREEID"]:
        problems.append(f"{good['MNG.CREATE']} KeyIDs used, {good['MNG.KEY.FREEID']} freed")
    if good["MEM.PAGE.RELOCATE"] != count["tdx_relocated"]:
        problems.append(f"{good['MEM.PAGE.RELOCATE']} pages relocated, {count['tdx_relocated']} counted")
    if result["relocated_pages"] < least:
        problems.append(f"{result['relocated_pages']} pages relocated, fewer than {least}")
    return result, problems


def of_guest(out, host, image, least):
    """What our first process says of its memory, and its kernel of everything."""
    measures, events = measurements(host, image)
    guest, seconds = host["guest"], host["seconds"]
    result = {
        "firmware_seconds": round(seconds.get("kernel", 0), 1),
        "kernel_seconds": round(seconds.get("init", 0) - seconds.get("kernel", 0), 1),
        "guest_rounds": guest.get("rounds", 0),
        "guest_bytes_verified": guest.get("bytes", 0),
        "guest_work": {n: guest.get(n, 0) for n in ("processes", "files", "mappings", "disk_bytes", "conversions")},
        "mismatches": guest.get("mismatches", -1),
        "longest_guest_pause_ms": round(guest.get("pause_us", 0) / 1000, 1),
        "measurements": measures,
        "measured_events": events,
        "guest_reports": reports(out / "guest.log"),
        "guest_complaints": complaints(out / "guest.log"),
    }
    problems = [f"{n}: read {m['read']}, has to be {m['computed']}" for n, m in measures.items() if len(set(m.values())) > 1]
    problems += [f"the guest's kernel: {line}" for line in result["guest_complaints"]]
    problems += not_zero(result, "mismatches", "guest_reports")
    if not events:
        problems.append("no event was measured")
    if least and not guest.get("conversions"):
        problems.append("the TD has made no shared memory private again")
    if host["verdict"] != "good":
        problems.append(f"the TD's first process: {host['verdict']}")
    return result, problems


def not_zero(result, *names):
    return [f"{name}: {result[name]}" for name in names if result[name] != 0]


def versions(out, parts):
    """Of what ran: another kernel than that of the parts says so itself."""
    result = json.loads((parts / "parts.json").read_text())
    log = out / "guest.log"
    said = re.search(r"Linux version (\S+)", log.read_text(errors="replace")) if log.exists() else None
    if said and said.group(1) != result["release"].split()[0]:
        result["guest_kernel"] = result["release"] = said.group(1)
    return result


def main():
    out, parts, target = (Path(argument) for argument in sys.argv[1:4])
    host = json.loads((out / "host.json").read_text())
    result = versions(out, parts)
    if host["vmm"] != "qemu":
        result["vmm"] = host["vmm"]
        del result["qemu"]
    if host["verdict"] == "firmware":
        # No kernel has run.
        del result["guest_kernel"], result["release"]
    result.update(vcpus=host["vcpus"], mib=host["mib"])
    least = int(sys.argv[4])
    sides = [of_host(out, host, least)]
    # A shell says nothing of its memory, nor do firmware and a first process that is not ours.
    if host["verdict"] not in ("shell", "firmware", "foreign"):
        sides.insert(0, of_guest(out, host, (parts / "OVMF.fd").read_bytes(), least))
    problems = []
    for side, wrong in sides:
        result.update(side)
        problems += wrong
    result["problems"] = problems
    target.write_text(json.dumps(result, indent=2) + "\n")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
