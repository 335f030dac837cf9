# SPDX-License-Identifier: GPL-2.0
"""make KDIR=: a tree that cannot do is refused with what is missing."""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
SCRIPT = TOP / "tools/build/check-kdir.sh"
NEEDED = re.findall(r"(?:rust|scripts)/[\w./]+\.(?:rmeta|so|rs|json)", SCRIPT.read_text())


class Trees(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tree = Path(folder.name)

    def add(self, name, text=""):
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def full(self):
        self.add("include/config/auto.conf", "CONFIG_MODULES=y\nCONFIG_RUST=y\n")
        for name in NEEDED:
            self.add(name)

    def check(self):
        """Exit status and messages of what `make KDIR=` begins with."""
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
        done = subprocess.run(
            ["make", "-s", "check-kdir", f"KDIR={self.tree}"],
            cwd=TOP, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    def refuses(self, *words):
        status, said = self.check()
        self.assertNotEqual(status, 0)
        for word in words:
            self.assertIn(word, said)

    def test_full_tree(self):
        self.full()
        self.assertEqual(self.check(), (0, ""))

    def test_no_tree(self):
        self.refuses("is no kernel build tree", "headers")

    def test_no_rust(self):
        self.add("include/config/auto.conf", "# CONFIG_RUST is not set\n")
        self.refuses("has no Rust support")

    def test_headers_without_metadata(self):
        self.full()
        for name in NEEDED:
            (self.tree / name).unlink()
        self.refuses("has Rust, but", "missing: " + " ".join(NEEDED), "modules_prepare")

    def test_one_file_missing(self):
        self.assertGreater(len(NEEDED), 8)
        for name in NEEDED:
            self.full()
            (self.tree / name).unlink()
            self.refuses(f"missing: {name}\n")


if __name__ == "__main__":
    unittest.main()
