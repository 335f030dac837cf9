# SPDX-License-Identifier: GPL-2.0
"""tools/bochs-tdx/summary.py: what the log of calls says of a TD's memory."""

import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bochs-tdx"))
import summary  # noqa: E402

TD, PAGE = "0x7000", 0x201000


def call(name, rcx, rdx=0, r8=0, status=0, old_page=None):
    registers = {k: hex(v) for k, v in (("rcx", rcx), ("rdx", rdx), ("r8", r8)) if v}
    out = {"rax": hex(status)} | ({"rcx": hex(old_page)} if old_page else {})
    return {"op": f"TDH.{name}", "in": registers, "out": out}


def mem(name, gpa=PAGE, **answer):
    return call(f"MEM.{name}", gpa, int(TD, 16), **answer)


def relocate():
    return [mem("PAGE.RELOCATE", old_page=0x9000), call("PHYMEM.PAGE.WBINVD", 0x9000)]


def violation(gpa=PAGE, td=TD, **more):
    return {"ept_violation": {"tdr": td, "gpa": hex(gpa), **more}}


def read(*lines):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for line in (call("MNG.CREATE", int(TD, 16)), *lines):
            file.write(json.dumps(line) + "\n")
        file.flush()
        _, bad, _, _, _, guests = summary.read_calls(Path(file.name))
    return list(bad), {k: v for k, v in guests.items() if k != "translations"}


class OldPages(unittest.TestCase):
    MOVE = mem("PAGE.RELOCATE", r8=0x8000, old_page=0x9000)
    CLEAN = call("PHYMEM.PAGE.WBINVD", 0x9000)

    def test_page_that_is_never_written_back(self):
        self.assertEqual(read(self.MOVE)[0], ["RELOCATE without WBINVD"])
        self.assertEqual(read(self.MOVE, self.CLEAN)[0], [])

    def test_page_that_is_used_again(self):
        for again in (
            mem("PAGE.AUG", PAGE + 0x1000, r8=0x9000),
            mem("PAGE.RELOCATE", PAGE + 0x1000, r8=0x9000, old_page=0x8000),
            call("VP.CREATE", 0x9000, int(TD, 16)),
        ):
            end = [self.CLEAN, call("PHYMEM.PAGE.WBINVD", 0x8000)]
            self.assertEqual(read(self.MOVE, again, *end)[0], ["page used again without WBINVD"])
            self.assertEqual(read(self.MOVE, self.CLEAN, again, *end)[0], [])


class Deliveries(unittest.TestCase):
    def test_what_was_delivered(self):
        for event, kind in (0, "external_interrupts"), (4, "software_interrupts"), (3, None):
            counted = read(mem("PAGE.ADD"), mem("RANGE.BLOCK"), violation(delivering=event))[1]
            counted.pop("ept_violations_in_window")
            self.assertEqual(counted, {f"deliveries_interrupted_of_{kind}": 1} if kind else {})


class Violations(unittest.TestCase):
    def allowed(self, why, *lines):
        self.assertEqual(read(*lines, violation()), ([], {f"ept_violations_{why}": 1}))

    def forbidden(self, *lines):
        bad, counted = read(*lines, violation())
        self.assertEqual((len(bad), counted), (1, {}))
        self.assertIn(f"EPT violation at {PAGE:#x}", bad[0])

    def test_page_that_is_not_mapped(self):
        self.allowed("unmapped")
        self.allowed("unmapped", mem("PAGE.AUG", PAGE + 0x1000))
        self.allowed("unmapped", mem("PAGE.AUG"), mem("RANGE.BLOCK"), mem("PAGE.REMOVE"))

    def test_mapped_page(self):
        self.forbidden(mem("PAGE.ADD"))
        # It may not be accepted yet.
        self.allowed("new", mem("PAGE.AUG"))
        self.allowed("new", mem("PAGE.AUG"), mem("RANGE.BLOCK", PAGE + 0x1000))

    def test_window(self):
        before = [mem("PAGE.AUG"), mem("RANGE.BLOCK")]
        self.allowed("in_window", *before)
        self.allowed("in_window", *before, mem("PAGE.RELOCATE", status=0x8000020000000001))
        self.forbidden(*before, *relocate())
        self.forbidden(*before, mem("RANGE.UNBLOCK"))

    def test_block_that_failed(self):
        self.forbidden(mem("PAGE.ADD"), mem("RANGE.BLOCK", status=0x8000020000000001))

    def test_blocked_range(self):
        self.allowed("in_window", mem("PAGE.AUG"), mem("RANGE.BLOCK", 0x200000 | 1))
        self.forbidden(mem("PAGE.ADD"), mem("RANGE.BLOCK", 0x400000 | 1))

    def test_page_at_zero(self):
        bad, counted = read(mem("PAGE.AUG", 0), mem("RANGE.BLOCK", 0), violation(0))
        self.assertEqual((bad, counted), ([], {"ept_violations_in_window": 1}))

    def test_other_td(self):
        other = "0x8000"
        lines = [call("MNG.CREATE", int(other, 16)), mem("PAGE.AUG"), violation(td=other)]
        self.assertEqual(read(*lines), ([], {"ept_violations_unmapped": 1}))

    def test_next_td_with_the_same_tdr(self):
        self.allowed("unmapped", mem("PAGE.AUG"), call("MNG.CREATE", int(TD, 16)))

    def test_page_that_was_shared_meanwhile(self):
        lines = [mem("PAGE.AUG"), mem("RANGE.BLOCK"), mem("PAGE.REMOVE")]
        self.assertEqual(read(*lines), ([], {}))
        self.assertEqual(read(*lines, mem("PAGE.AUG")), ([], {"pages_given_again": 1}))

    def test_page_that_moved_is_not_mapped_anew(self):
        lines = [mem("PAGE.AUG"), mem("RANGE.BLOCK"), *relocate(), mem("PAGE.AUG")]
        self.assertEqual(
            read(*lines, call("MNG.KEY.FREEID", int(TD, 16)))[0], ["MEM.PAGE.AUG of a page that was there"]
        )


if __name__ == "__main__":
    unittest.main()
