# SPDX-License-Identifier: GPL-2.0
"""tools/bochs-tdx/coverage.py: what the compiler's tool says, and what differs."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bochs-tdx"))
import coverage  # noqa: E402

FOLDER = Path("/c/overlay/arch/x86/kvm")
COUNTED = """\
file:vmx/tdx.c
function:3,2,first
function:9,0,second
lcount:3,2
lcount:4,0
lcount:9,0
file:/usr/include/page.h
lcount:3,7
file:../../../virt/kvm/guest_memfd.c
lcount:8,1
"""


class Counted(unittest.TestCase):
    def setUp(self):
        self.lines = coverage.Lines()
        self.lines.add(COUNTED, FOLDER)

    def test_files_of_the_overlay_only(self):
        self.assertEqual(set(self.lines.counts), {"arch/x86/kvm/vmx/tdx.c", "virt/kvm/guest_memfd.c"})

    def test_machines_add_up(self):
        self.lines.add("file:vmx/tdx.c\nfunction:9,1,second\nlcount:9,1\nlcount:4,0\n", FOLDER)
        self.assertEqual(self.lines.counts[coverage.TDX], {3: 2, 4: 0, 9: 1})
        self.assertEqual(self.lines.functions[coverage.TDX]["second"], (9, 1))

    def test_function_of_a_line(self):
        self.assertEqual(self.lines.function_at(coverage.TDX, 4), "first")
        self.assertEqual(self.lines.function_at(coverage.TDX, 12), "second")

    def test_share(self):
        value = coverage.share(self.lines.counts[coverage.TDX].values())
        self.assertEqual(value, {"lines": 3, "executed": 1, "percent": 33.3})


class Stream(unittest.TestCase):
    def test_names_and_contents(self):
        data = b"\3\0\0\0abc\4\0\0\0\1\2\3\4" + b"\1\0\0\0d\0\0\0\0"
        self.assertEqual(list(coverage.split(data)), [("abc", b"\1\2\3\4"), ("d", b"")])


class Series(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = Path(self.folder.name)

    def write(self, name, text):
        (self.path / name).write_text(text)
        return self.path / name

    def test_lines_that_differ(self):
        old = self.write("old", "a\nb\nc\n")
        new = self.write("new", "a\nB\nc\nd\n")
        self.assertEqual(coverage.changed(old, new), {2, 4})

    def test_new_file(self):
        new = self.write("new", "a\nb\n")
        self.assertEqual(coverage.changed(self.path / "none", new), {1, 2})

    def test_reasons(self):
        path = self.write("reasons", "# a comment\n\na/b.c f: if (x) => y > z\n")
        self.assertEqual(coverage.read_reasons(path), {("a/b.c", "f", "if (x)"): "y > z"})


if __name__ == "__main__":
    unittest.main()
