# SPDX-License-Identifier: GPL-2.0
"""MIB=, VCPUS= and NUMA=: what they make of the machine, and what is refused."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

PREPARE = Path(__file__).resolve().parents[1] / "prepare.sh"
SCRIPT = """
set -euo pipefail
. "$0"
KDIR=$1
machine_size
echo "$MEMORY $COMMAND_LINE ${VM_OPTIONS[*]}"
"""


class Sizes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.kdir = folder.name
        Path(self.kdir, ".config").write_text("CONFIG_NR_CPUS=8\nCONFIG_NODES_SHIFT=6\n")

    def machine(self, **sizes):
        environment = {k: v for k, v in os.environ.items() if k not in ("MIB", "VCPUS", "NUMA", "VM_EXITS")}
        done = subprocess.run(
            ["bash", "-c", SCRIPT, PREPARE, self.kdir],
            env=environment | sizes, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, (done.stdout + done.stderr).strip()

    def test_none(self):
        self.assertEqual(self.machine(), (0, "8G numa=fake=2 movablecore=4G cma=64M"))

    def test_all(self):
        self.assertEqual(
            self.machine(MIB="3000", VCPUS="1", NUMA="64"),
            (0, "3000M numa=fake=64 movablecore=1500M cma=64M --cpus 1"),
        )

    def test_refused(self):
        for name, value, why in (
            ("MIB", "12x", "not a whole number from 1024 to "),
            ("MIB", "1023", "less is too little for the tests"),
            ("MIB", "9999999", "and this host has "),
            ("VCPUS", "0", "not a whole number from 1 to 7"),
            ("VCPUS", "8", "CONFIG_NR_CPUS=8 of this kernel, and one CPU is its own"),
            ("NUMA", "65", "CONFIG_NODES_SHIFT=6 of this kernel"),
            ("NUMA", "-1", "not a whole number from 1 to 64"),
        ):
            with self.subTest(name=name, value=value):
                status, said = self.machine(**{name: value})
                self.assertEqual(status, 1)
                self.assertIn(f"error: {name}={value}: ", said)
                self.assertIn(why, said)


if __name__ == "__main__":
    unittest.main()
