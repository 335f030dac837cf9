# SPDX-License-Identifier: GPL-2.0
"""ktap.py: results are counted once, and whatever is missing is a failure."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ktap  # noqa: E402


def count(body, status=0):
    text = f">>> suite s\n{body}\n<<< suite s: exit {status}, 1 s\n"
    cases = [case for suite in ktap.suites(text) for case in suite.cases()]
    return tuple(sum(c.outcome == o for c in cases) for o in (ktap.PASS, ktap.FAIL, ktap.SKIP))


class Flat(unittest.TestCase):
    def test_outcomes(self):
        body = "TAP version 13\n1..4\nok 1 a\n# why\nnot ok 2 b\nok 3 c # SKIP no node\nok 4 d"
        self.assertEqual(count(body, 1), (2, 1, 1))

    def test_missing_plan_is_tolerated_with_results(self):
        self.assertEqual(count("KTAP version 1\nok 1 a\nok 2 b"), (2, 0, 0))

    def test_plan_at_the_end(self):
        self.assertEqual(count("KTAP version 1\nok 1 a\nok 2 b\n1..2"), (2, 0, 0))

    def test_plan_not_kept(self):
        self.assertEqual(count("KTAP version 1\n1..3\nok 1 a\nok 2 b"), (2, 1, 0))

    def test_more_than_planned(self):
        self.assertEqual(count("KTAP version 1\n1..1\nok 1 a\nok 2 b"), (2, 1, 0))

    def test_nothing_but_a_version(self):
        self.assertEqual(count("KTAP version 1"), (0, 1, 0))

    def test_all_skipped_by_plan(self):
        self.assertEqual(count("TAP version 13\n1..0 # SKIP no KVM", 4), (0, 0, 1))

    def test_bail_out(self):
        self.assertEqual(count("TAP version 13\n1..2\nok 1 a\nBail out! no memory", 1), (1, 1, 0))

    def test_status_without_a_failed_case(self):
        self.assertEqual(count("KTAP version 1\n1..1\nok 1 a", 139), (1, 1, 0))

    def test_skip_status_of_kselftest(self):
        self.assertEqual(count("KTAP version 1\n1..1\nok 1 a # SKIP", 4), (0, 0, 1))

    def test_timeout_and_expected_failure(self):
        body = "KTAP version 1\n1..2\nnot ok 1 a # TIMEOUT 45 seconds\nnot ok 2 b # TODO later"
        self.assertEqual(count(body), (1, 1, 0))

    def test_streams_after_each_other(self):
        self.assertEqual(count("KTAP version 1\n1..1\nok 1 a\nKTAP version 1\n1..1\nok 1 b"), (2, 0, 0))


KUNIT = """\
<6>[    9.000000] KTAP version 1
<6>[    9.000001] 1..1
<6>[    9.000001]     KTAP version 1
<6>[    9.000002]     # Subtest: rust_state
<6>[    9.000002]     # module: privmemfd
<6>[    9.000003]     1..3
<6>[    9.000004]     ok 1 legal
<6>[    9.000005]         KTAP version 1
<6>[    9.000006]         # Subtest: table
<6>[    9.000007]         ok 1 one
<6>[    9.000008]         ok 2 two
<6>[    9.000009]     ok 2 table
<6>[    9.000010]     ok 3 illegal # SKIP off
<6>[    9.000011] # rust_state: pass:2 fail:0 skip:1 total:3
<6>[    9.000012] # Totals: pass:3 fail:0 skip:1 total:4
<6>[    9.000013] ok 1 rust_state"""


class Nested(unittest.TestCase):
    def test_leaves_only(self):
        self.assertEqual(count(KUNIT), (3, 0, 1))

    def test_failed_leaf(self):
        body = KUNIT.replace("    ok 1 one", "    not ok 1 one").replace("ok 1 rust_state", "not ok 1 rust_state")
        self.assertEqual(count(body), (2, 1, 1))

    def test_parent_fails_alone(self):
        self.assertEqual(count(KUNIT.replace("] ok 1 rust_state", "] not ok 1 rust_state")), (3, 1, 1))

    def test_truncated(self):
        body = "\n".join(KUNIT.splitlines()[:8])
        passed, failed, _ = count(body)
        self.assertEqual(passed, 1)
        self.assertGreaterEqual(failed, 1)

    def test_lines_between_do_not_count(self):
        body = KUNIT.replace("<6>[    9.000004]", "<6>[    9.000004] ok then, a message\n<6>[    9.000004]")
        self.assertEqual(count(body), (3, 0, 1))


class Other(unittest.TestCase):
    def test_plain_program(self):
        self.assertEqual(count("hello", 0), (1, 0, 0))
        self.assertEqual(count("hello", 1), (0, 1, 0))
        self.assertEqual(count("hello", 4), (0, 0, 1))
        self.assertEqual(count("hello", 137), (0, 1, 0))

    def test_cargo(self):
        body = (
            "running 3 tests\ntest a ... ok\n"
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n"
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
        )
        self.assertEqual(count(body, 101), (3, 2, 1))

    def test_cargo_that_does_not_build(self):
        self.assertEqual(count("error[E0425]: cannot find value", 101), (0, 1, 0))

    def test_unittest(self):
        self.assertEqual(count("....\nRan 4 tests in 0.1s\n\nOK (skipped=1)"), (3, 0, 1))
        self.assertEqual(count("Ran 4 tests in 0.1s\n\nFAILED (failures=1, errors=1)", 1), (2, 2, 0))

    def test_suite_without_end(self):
        found = ktap.suites(">>> suite s\nKTAP version 1\n1..2\nok 1 a\n")
        self.assertEqual([case.outcome for case in found[0].cases()], ["passed", "failed", "failed"])

    def test_end_behind_text_without_newline(self):
        found = ktap.suites(">>> suite s\nAdding slots<<< suite s: exit 0, 2 s\n")
        self.assertEqual([case.outcome for case in found[0].cases()], ["passed"])
