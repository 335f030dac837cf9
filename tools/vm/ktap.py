#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Count the results of test suites, whatever form they report in.

Input is the output of one or more runs that mark their suites like this:

    >>> suite NAME
    ... what the suite printed ...
    <<< suite NAME: exit STATUS, SECONDS s

A suite's text is KTAP (nested or not, with or without a kernel log's prefix),
cargo's or Python unittest's summary, or nothing known: then it is one case,
judged by its exit status (4 is kselftest's SKIP). Only leaves of nested KTAP
count. What is not there is a failure: a suite without an end, a plan that was
not kept, a stream without results, an exit status that the results do not
explain.

The last line of the output is `N passed, N failed, N skipped`.
"""

import argparse
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

BEGIN = re.compile(r"^>>> suite (\S.*)$")
END = re.compile(r"<<< suite (\S.*): exit (\d+), (\d+) s$")
PREFIX = re.compile(r"^(?:<\d+>)?\[\s*\d+\.\d+\](?:\[\s*[TC]\d+\])? ?")
VERSION = re.compile(r"^(?:KTAP version \d+|TAP version 1[34])$")
PLAN = re.compile(r"^1\.\.(\d+)(?:\s+#\s*SKIP\b.*)?$", re.IGNORECASE)
RESULT = re.compile(
    r"^(not )?ok\s+(\d+)\b(?:\s+-)?\s*(.*?)(?:\s*#\s*(SKIP|TODO|XFAIL|XPASS|TIMEOUT|ERROR)\b.*)?$",
    re.IGNORECASE,
)
BAIL = re.compile(r"^Bail out!")
CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
UNITTEST = re.compile(r"^Ran (\d+) tests? in ")
UNITTEST_END = re.compile(r"^(?:OK|FAILED)(?: \((.*)\))?$")

SKIP_STATUS = 4
TIMED_OUT = 124
SIGNALLED = 128
PASS, FAIL, SKIP = "passed", "failed", "skipped"


@dataclass
class Case:
    name: str
    outcome: str
    notes: list = field(default_factory=list)


@dataclass
class Level:
    """One KTAP stream of a certain indentation that is not complete yet."""

    indent: int
    plan: int = None
    results: int = 0
    cases: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    # Leaves of a deeper stream that still waits for its parent's result.
    inner: list = None

    def close(self):
        """The leaves of this stream, among them what is wrong with itself."""
        cases = self.cases
        if self.inner is not None:
            cases = cases + self.inner + [Case("(no result for the last subtest)", FAIL)]
            self.inner = None
        if self.plan is None and self.results == 0:
            cases = cases + [Case("(no plan and no result)", FAIL, self.notes)]
        elif self.plan is not None and self.plan != self.results:
            text = f"(planned {self.plan}, ran {self.results})"
            cases = cases + [Case(text, FAIL, self.notes)]
        return cases


class Ktap:
    """Collects the leaves of all KTAP streams in a text."""

    def __init__(self):
        self.levels = []
        self.done = []

    def feed(self, line):
        indent = len(line) - len(line.lstrip(" "))
        text = line.strip()
        if VERSION.match(text):
            self.enter(indent, fresh=True)
        elif match := PLAN.match(text):
            self.enter(indent)
            self.levels[-1].plan = int(match[1])
        elif match := RESULT.match(text):
            self.enter(indent)
            self.result(match)
        elif BAIL.match(text):
            self.enter(indent)
            self.levels[-1].cases.append(Case(text, FAIL))
            self.levels[-1].results += 1
        elif self.levels and text:
            self.levels[-1].notes.append(text)

    def enter(self, indent, fresh=False):
        """Makes the stream of this indentation the innermost one."""
        while self.levels and self.levels[-1].indent > indent:
            self.leave()
        if self.levels and self.levels[-1].indent == indent:
            if not fresh:
                return
            self.leave()
        self.levels.append(Level(indent))

    def leave(self):
        cases = self.levels[-1].close()
        self.levels.pop()
        if self.levels:
            outer = self.levels[-1]
            outer.inner = (outer.inner or []) + cases
        else:
            self.done += cases

    def result(self, match):
        level = self.levels[-1]
        failed, number, name, directive = match.groups()
        name = name or f"test {number}"
        directive = (directive or "").upper()
        outcome = FAIL if failed else PASS
        if directive == "SKIP":
            outcome = SKIP
        elif directive in ("TODO", "XFAIL"):
            outcome = PASS
        elif directive in ("TIMEOUT", "ERROR"):
            outcome = FAIL
        notes, level.notes = level.notes, []
        level.results += 1
        inner, level.inner = level.inner, None
        if inner is None:
            level.cases.append(Case(name, outcome, notes))
            return
        for case in inner:
            case.name = f"{name}: {case.name}"
        if outcome == FAIL and not any(case.outcome == FAIL for case in inner):
            inner.append(Case(f"{name} (itself)", FAIL, notes))
        level.cases += inner

    def finish(self):
        while self.levels:
            self.leave()
        return self.done


def summaries(lines):
    """Cases by number alone: what cargo and unittest print at their end."""
    cases = []
    ran = None
    for line in lines:
        if match := CARGO.match(line):
            counts = zip((PASS, FAIL, SKIP), match.groups())
        elif match := UNITTEST.match(line):
            ran = int(match[1])
            continue
        elif ran is not None and (match := UNITTEST_END.match(line)):
            words = dict(pair.split("=") for pair in (match[1] or "").split(", ") if "=" in pair)
            failed = sum(int(words.get(key, 0)) for key in ("failures", "errors", "unexpected successes"))
            skipped = int(words.get("skipped", 0))
            counts = ((PASS, ran - failed - skipped), (FAIL, failed), (SKIP, skipped))
            ran = None
        else:
            continue
        for outcome, count in counts:
            cases += [Case("(see the output)", outcome) for _ in range(int(count))]
    return cases


@dataclass
class Suite:
    name: str
    status: int = None
    seconds: int = 0
    lines: list = field(default_factory=list)

    def cases(self):
        ktap = Ktap()
        for line in self.lines:
            ktap.feed(PREFIX.sub("", line.rstrip("\r")))
        cases = ktap.finish() or summaries(self.lines)
        if self.status is None:
            return cases + [Case("(cut off: no end of the suite)", FAIL, self.lines[-10:])]
        if not cases:
            outcome = {0: PASS, SKIP_STATUS: SKIP}.get(self.status, FAIL)
            cases = [Case("", outcome, self.lines[-20:])]
            if outcome == FAIL:
                cases[0].name = explain(self.status)
        elif self.status != 0 and all(case.outcome != FAIL for case in cases):
            if self.status != SKIP_STATUS or any(case.outcome == PASS for case in cases):
                cases.append(Case(explain(self.status), FAIL, self.lines[-10:]))
        return cases


def explain(status):
    if status == TIMED_OUT:
        return "(out of time)"
    if status > SIGNALLED:
        return f"(killed by signal {status - SIGNALLED})"
    return f"(exit status {status})"


def suites(text):
    found = []
    current = None
    for line in text.splitlines():
        if match := BEGIN.match(line):
            current = Suite(match[1])
            found.append(current)
        elif (match := END.search(line)) and current and match[1] == current.name:
            if line[: match.start()]:
                current.lines.append(line[: match.start()])
            current.status, current.seconds = int(match[2]), int(match[3])
            current = None
        elif current:
            current.lines.append(line)
    return found


def report(found, out):
    total = {PASS: 0, FAIL: 0, SKIP: 0}
    for suite in found:
        cases = suite.cases()
        count = {key: sum(case.outcome == key for case in cases) for key in total}
        for key in total:
            total[key] += count[key]
        word = "FAIL" if count[FAIL] else "ok" if count[PASS] else "skip"
        parts = ", ".join(f"{count[key]} {key}" for key in total if count[key])
        print(f"{word:4} {suite.name}: {parts} ({suite.seconds} s)", file=out)
        for case in cases:
            if case.outcome == FAIL:
                print(f"     not ok {case.name}", file=out)
                for note in case.notes[-20:]:
                    print(f"       | {note}", file=out)
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("log", nargs="+", type=Path)
    options = parser.parse_args()
    found = []
    for path in options.log:
        found += suites(path.read_text(errors="replace"))
    total = report(found, sys.stdout)
    if not found:
        total[FAIL] += 1
        print("FAIL: no suite ran")
    print(", ".join(f"{total[key]} {key}" for key in (PASS, FAIL, SKIP)))
    return 1 if total[FAIL] else 0


if __name__ == "__main__":
    sys.exit(main())
