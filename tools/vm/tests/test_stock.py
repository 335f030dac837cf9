# SPDX-License-Identifier: GPL-2.0
"""stock-json.py: one object of what make stock has found."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "stock-json.py"
CONFIG = 'CONFIG_CC_VERSION_TEXT="gcc-14 (Debian) 14.2.0"\nCONFIG_RUSTC_VERSION_TEXT="rustc 1.85.1"\n'
RESULT = "ok   abi_test: 3 passed (1 s)\n31 passed, 0 failed, 2 skipped\n"


class Stock(unittest.TestCase):
    def run_with(self, act):
        with tempfile.TemporaryDirectory() as folder:
            names = [Path(folder, name) for name in ("config", "release", "result", "run", "out")]
            for path, text in zip(names, (CONFIG, "7.3.4+deb13\n", RESULT, act)):
                if text is not None:
                    path.write_text(text)
            done = subprocess.run([sys.executable, SCRIPT, *names], check=False)
            return done.returncode, json.loads(names[-1].read_text())

    def test_all_of_it(self):
        status, value = self.run_with('{"relocated_pages": 20001, "mismatches": 0}')
        self.assertEqual(status, 0)
        self.assertEqual(
            value,
            {
                "kernel": "7.3.4+deb13", "compiler": "gcc-14 (Debian) 14.2.0", "rustc": "rustc 1.85.1",
                "passed": 31, "failed": 0, "skipped": 2,
                "relocated_pages": 20001, "mismatches": 0, "kernel_reports": None,
            },
        )  # fmt: skip

    def test_a_demonstration_without_a_good_end_fails(self):
        for act in (None, '{"relocated_pages": 20001, "mismatches": 1}', '{"relocated_pages": 0, "mismatches": 0}'):
            self.assertEqual(self.run_with(act)[0], 1, act)


if __name__ == "__main__":
    unittest.main()
