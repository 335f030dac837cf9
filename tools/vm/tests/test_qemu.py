# SPDX-License-Identifier: GPL-2.0
"""qemu.py: a QEMU that is too old, or none, is refused with its version and advice."""

import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2]
SCRIPT = TOOLS / "vm/qemu.py"


class Versions(unittest.TestCase):
    def ask(self, said):
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "qemu"
            program.write_text(f"#!/bin/sh\necho '{said}'\n")
            program.chmod(0o755)
            return subprocess.run(
                [sys.executable, SCRIPT, program], capture_output=True, text=True, check=False
            )

    def test_new_enough(self):
        for version in ("10.2.0", "10.2", "11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)", "100.0"):
            done = self.ask(f"QEMU emulator version {version}")
            self.assertEqual((done.returncode, done.stderr), (0, ""), version)

    def test_too_old(self):
        for version in ("7.2.22", "8.2.10", "10.1.5", "10.0.13"):
            done = self.ask(f"QEMU emulator version {version} (Debian)")
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"is QEMU {version}, but 10.2 or newer is needed", done.stderr)
            self.assertIn("QEMU=", done.stderr)

    def test_what_is_provisioned_is_new_enough(self):
        provision = (TOOLS / "build/provision.sh").read_text()
        version = re.search(r"^MIN_QEMU=(\S+)$", provision, re.MULTILINE)[1]
        self.assertEqual(self.ask(f"QEMU emulator version {version}").returncode, 0)
        major, minor = map(int, version.split("."))
        older = f"{major}.{minor - 1}" if minor else f"{major - 1}.9"
        self.assertEqual(self.ask(f"QEMU emulator version {older}").returncode, 1)

    def test_no_qemu(self):
        done = self.ask("ls (GNU coreutils) 9.1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("is no QEMU", done.stderr)
        done = subprocess.run(
            [sys.executable, SCRIPT, "/nowhere/qemu"], capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot run QEMU", done.stderr)


if __name__ == "__main__":
    unittest.main()
