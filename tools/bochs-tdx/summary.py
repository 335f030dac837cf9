#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the TDX module saw during runs on the emulated host, as JSON.

summary.py OUT.json RELOCATIONS NAME=DIR...: reads seamcalls.jsonl and job.log of
each DIR. Exits with 1 if a run left a page with the TDX module or a KeyID in use,
if a call or a case failed that should not, if a TD exited for a page that had moved
and was not blocked, if processors have not kept translations over TD exits, if no
interrupt had to be delivered again because of a move, if there were fewer
RELOCATIONS, or with 2 if a machine has left no such files. Calls that the fault plan
has refused are counted apart.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

# Calls that give a page to the module, and that take one back.
GIVEN = ("MNG.CREATE", "MNG.ADDCX", "VP.CREATE", "VP.ADDCX", "MEM.SEPT.ADD", "MEM.PAGE.ADD", "MEM.PAGE.AUG")
# Of these RCX is the page, of the others R8.
BY_RCX = ("MNG.CREATE", "MNG.ADDCX", "VP.CREATE", "VP.ADDCX")
TAKEN = ("PHYMEM.PAGE.RECLAIM", "MEM.PAGE.REMOVE")
# Statuses that are no failures: busy and interrupted (both retried), vCPU not
# associated, nothing to write back, no such CPUID leaf or one that is an exception (KVM
# asks for each).
HARMLESS = {0x80000200, 0x80000003, 0x80000702, 0x00000821, 0xC0000C00, 0xC0000C02}
# Leaves that no module of this version has: the shutdown of a newer one by the
# kernel, and privmemfd.ko's question whether there is a module.
UNKNOWN_LEAVES = {"LEAF69", "LEAF65535"}
# What calls of the fault plan may lead to: a page that is given back before there
# is a new epoch.
CONSEQUENCES = {
    ("MEM.RANGE.UNBLOCK", 0xC0000B08),
}
# Of VM-entry interruption information.
EVENT_TYPES = {0: "external_interrupts", 4: "software_interrupts"}
# 46 of 52 bits, see cpu/tdx.hh.
WITHOUT_KEYID = (1 << 46) - 1
PAGE = 4096
LEVELS = 5
CASE = re.compile(r"((?:not )?ok) \d+ (\w+)(?: # (SKIP .*))?")


class PrivateMemory:
    """What the log says of a TD's pages: by GPA, and by GPA and level if blocked."""

    def __init__(self):
        self.mapped, self.blocked = set(), set()
        # Given by AUG and never blocked: the TD may not have accepted it.
        self.new = set()
        self.again = 0
        # What was taken from the TD, and how often such a page was given again: it was shared.
        self.removed = set()
        self.back = 0
        self.relocated = False

    def call(self, name, rcx):
        """A call that succeeded; RCX is a GPA and a level."""
        level = rcx & 7
        gpa = rcx & -(PAGE << 9 * level)
        if name in ("MEM.PAGE.ADD", "MEM.PAGE.AUG"):
            self.again += gpa in self.mapped
            self.mapped.add(gpa)
            self.back += gpa in self.removed
            if name == "MEM.PAGE.AUG":
                self.new.add(gpa)
        elif name == "MEM.RANGE.BLOCK":
            self.blocked.add((gpa, level))
            if level:
                self.new -= {page for page in self.new if page & -(PAGE << 9 * level) == gpa}
            else:
                self.new.discard(gpa)
        elif name in ("MEM.RANGE.UNBLOCK", "MEM.PAGE.RELOCATE"):
            self.blocked.discard((gpa, level))
            self.relocated |= name == "MEM.PAGE.RELOCATE"
        elif name == "MEM.PAGE.REMOVE":
            self.blocked.discard((gpa, level))
            self.mapped.discard(gpa)
            self.removed.add(gpa)

    def violation(self, gpa):
        """Why the TD may have exited for the page: "unmapped", "new", "in_window" or None."""
        if gpa not in self.mapped:
            return "unmapped"
        if gpa in self.new:
            return "new"
        levels = range(LEVELS)
        return "in_window" if any((gpa & -(PAGE << 9 * n), n) in self.blocked for n in levels) else None


def read_calls(path):
    good, bad, harmless, injected, seen = (Counter() for _ in range(5))
    translations = {}
    tds = {}
    kept = 0  # old pages that are not used again before their TD has gone
    unclean = {}  # old pages of which caches may have lines: their TDR
    refused = set()  # of those, because of the plan
    for line in path.open():
        call = json.loads(line)
        if "violation" in call:
            bad[f"stray write to {call['violation']}"] += 1
            continue
        if "translations" in call:
            translations = call["translations"]
            continue
        if "ept_violation" in call:
            where = call["ept_violation"]
            if kind := EVENT_TYPES.get(where.get("delivering")):
                seen[f"deliveries_interrupted_of_{kind}"] += 1
            why = tds[where["tdr"]].violation(int(where["gpa"], 16))
            if why:
                seen[f"ept_violations_{why}"] += 1
            else:
                bad[f"EPT violation at {where['gpa']}, which had been blocked and was so no more"] += 1
            continue
        name = call["op"].removeprefix("TDH.")
        if "fatal" in call["out"]:
            bad[f"{name}: the TDX module is dead"] += 1
            continue
        status = int(call["out"].get("rax", "0"), 16)
        rcx, rdx = (call["in"].get(register, "0x0") for register in ("rcx", "rdx"))
        if status == 0 or "entered" in call["out"]:
            good[name] += 1
            if name == "MNG.CREATE":
                tds[rcx] = PrivateMemory()
            elif name.startswith("MEM.") and rdx in tds:
                tds[rdx].call(name, int(rcx, 16))
            if name in GIVEN or name == "MEM.PAGE.RELOCATE":
                page = rcx if name in BY_RCX else call["in"].get("r8", "0x0")
                bad["page used again without WBINVD"] += int(page, 16) & WITHOUT_KEYID in unclean
            if name == "MEM.PAGE.RELOCATE":
                unclean[int(call["out"]["rcx"], 16)] = rdx
            elif name == "PHYMEM.PAGE.WBINVD":
                page = int(rcx, 16) & WITHOUT_KEYID
                unclean.pop(page, None)
                refused.discard(page)
            elif name == "MNG.KEY.FREEID":
                # All caches have been written back.
                for page in [page for page in refused if unclean[page] == rcx]:
                    refused.remove(page)
                    del unclean[page]
                # A page that moves must not be mapped anew.
                if tds[rcx].relocated:
                    bad["MEM.PAGE.AUG of a page that was there"] += tds[rcx].again
        elif "injected" in call:
            injected[f"{name} {status:#x}"] += 1
            page = int(rcx, 16) & WITHOUT_KEYID
            if name == "PHYMEM.PAGE.WBINVD" and status >> 60 == 0xC and page in unclean:
                kept += 1
                refused.add(page)
        elif injected and (name, status >> 32) in CONSEQUENCES:
            harmless[f"{name} {status:#x}"] += 1
        elif name in UNKNOWN_LEAVES or status >> 32 in HARMLESS:
            harmless[f"{name} {status:#x}"] += 1
        # TD exits: the reason is in the low half.
        elif name == "VP.ENTER" and status >> 32 == 0:
            harmless["VP.ENTER exit"] += 1
        else:
            bad[f"{name} {status:#x}"] += 1
    bad["RELOCATE without WBINVD"] = len(unclean)
    seen["pages_given_again"] = sum(td.back for td in tds.values())
    return good, +bad, harmless, injected, kept, {**+seen, "translations": translations}


def read_guest(path):
    """Counters, and the results of the cases: ok, not ok, or why skipped."""
    counters, cases = {}, {}
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("td-test: "):
            more = json.loads(line.removeprefix("td-test: "))
            more["injected_faults"] = more.get("injected_faults", 0) + counters.get("injected_faults", 0)
            counters.update(more)
        elif found := CASE.match(line):
            result, name, skipped = found.groups()
            cases[name] = skipped or result
    return counters, cases


def summarize(folder):
    good, bad, harmless, injected, kept, guests = read_calls(folder / "seamcalls.jsonl")
    guest, cases = read_guest(folder / "job.log")
    given, taken = (sum(good[n] for n in names) for names in (GIVEN, TAKEN))
    problems = [f"{n} times {what}" for what, n in bad.items()]
    if given != taken:
        problems.append(f"{given} pages given to the module, {taken} taken back")
    if guest.get("injected_faults", 0) != injected.total():
        problems.append(f"{injected.total()} calls refused by plan, {guest.get('injected_faults')} counted")
    stuck = guest.get("stuck_pages", 0)
    if guest.get("tdx_pages_kept", 0) != kept + stuck:
        problems.append(f"{guest.get('tdx_pages_kept', 0)} pages kept, not {kept} by plan and {stuck} stuck")
    if not guests["translations"].get("used_after_a_later_entry"):
        problems.append("no translation outlived a TD exit")
    # With one vCPU it is seldom just then that a page moves.
    if cases.get("interrupts_while_moving") == "ok" and good["VP.CREATE"] > good["MNG.CREATE"]:
        if not any(guests.get(f"deliveries_interrupted_of_{kind}") for kind in EVENT_TYPES.values()):
            problems.append("no interrupt's delivery met a page that moved")
    if good["MNG.CREATE"] != good["MNG.KEY.FREEID"]:
        problems.append(f"{good['MNG.CREATE']} KeyIDs used, {good['MNG.KEY.FREEID']} freed")
    problems += [f"{case}: {result}" for case, result in cases.items() if result == "not ok"]
    if not guest:
        problems.append("the test did not end")
    relocated = good["MEM.PAGE.RELOCATE"]
    if relocated != guest.get("tdx_relocated", 0):
        problems.append(f"{relocated} pages relocated, {guest.get('tdx_relocated', 0)} counted")
    if relocated < guest.get("moved_pages", 0):
        problems.append(f"{relocated} pages relocated, {guest['moved_pages']} moved by the test")
    return {
        "pages_given": given,
        "pages_taken_back": taken,
        "calls": dict(sorted(good.items())),
        "other_statuses": dict(sorted(harmless.items())),
        "injected_faults": dict(sorted(injected.items())),
        **guests,
        "cases": cases,
        "guest": guest,
        "problems": problems,
    }


def main():
    target, least, *runs = sys.argv[1:]
    result = {}
    relocated = 0
    for run in runs:
        name, _, folder = run.partition("=")
        try:
            result[name] = summarize(Path(folder))
        except OSError as error:
            print(f"{name}: {error.strerror}: {error.filename}", file=sys.stderr)
            return 2
        relocated += result[name]["calls"].get("MEM.PAGE.RELOCATE", 0)
        for problem in result[name]["problems"]:
            print(f"{name}: {problem}", file=sys.stderr)
    few = relocated < int(least)
    if few:
        print(f"{relocated} relocations, fewer than {least}", file=sys.stderr)
    Path(target).write_text(json.dumps(result, indent=2) + "\n")
    return few or any(r["problems"] for r in result.values())


if __name__ == "__main__":
    sys.exit(main())
