# SPDX-License-Identifier: GPL-2.0
"""vm.py --interactive, the host's half: a terminal, and a pipe, are the script's line."""

import os
import pty
import subprocess
import sys
import tempfile
import termios
import unittest
from pathlib import Path

VM = Path(__file__).resolve().parents[1] / "vm.py"

# In QEMU's place: shows a prompt, repeats what is typed in capitals, ends at "exit N" with
# that status, or at the end of input with 0.
MACHINE = r"""#!/usr/bin/env python3
import io, re, sys, tarfile
words = " ".join(sys.argv)
raw, typed = re.search(r"path=(\S+),input-path=(\S+)", words).groups()
initramfs = re.search(r"-initrd (\S+)", words)[1]
token = re.search(rb"TOKEN=(\S+)", open(initramfs, "rb").read())[1]
with open(typed, "rb", buffering=0) as line, open(raw, "ab", buffering=0) as shown:
    shown.write(b"machine\nvm# ")
    text, status = b"", None
    while status is None:
        text += line.read(1)
        if text.endswith(b"\x04"):
            status = 0
        elif text[-1:] in b"\r\n":
            found = re.match(rb"exit (\d+)", text)
            status = int(found[1]) if found else None
            shown.write(text.strip().upper() + b"\nvm# ")
            text = b""
    files = io.BytesIO()
    tarfile.open(fileobj=files, mode="w").close()
    shown.write(b"\n" + token + b" %d\n" % status + files.getvalue())
"""


class Interactive(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        machine = self.folder / "qemu"
        machine.write_text(MACHINE)
        machine.chmod(0o755)
        (self.folder / "kernel").touch()
        (self.folder / "job").touch()
        self.command = [
            sys.executable, str(VM), "--any-qemu", "--qemu", str(machine), "--interactive",
            "--kernel", str(self.folder / "kernel"), "--out", str(self.folder / "out"), str(self.folder / "job"),
        ]  # fmt: skip

    def test_terminal(self):
        pid, line = pty.fork()
        if pid == 0:
            os.execv(self.command[0], self.command)
        before = termios.tcgetattr(line)
        shown = self.until(line, b"vm# ")
        # Raw: nothing is echoed, and Ctrl-C is the machine's.
        self.assertFalse(termios.tcgetattr(line)[3] & (termios.ECHO | termios.ISIG | termios.ICANON))
        os.write(line, b"hello\x03there\r")
        shown += self.until(line, b"HELLO\x03THERE\nvm# ")
        os.write(line, b"exit 3\r")
        self.until(line, b"EXIT 3")
        # What is shown is read to its end, or the other side could wait for it.
        while True:
            after = termios.tcgetattr(line)
            try:
                if not os.read(line, 1000):
                    break
            except OSError:
                break
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 3)
        self.assertEqual(before, after)
        self.assertNotIn(b"hello", shown)

    def until(self, line, wanted):
        shown = b""
        while wanted not in shown:
            shown += os.read(line, 1000)
        return shown

    def pipe(self, typed):
        done = subprocess.run(self.command, input=typed, capture_output=True, timeout=30, check=False)
        return done.returncode, done.stdout

    def test_pipe(self):
        status, shown = self.pipe(b"hello\nexit 5\n")
        self.assertEqual(status, 5)
        self.assertIn(b"HELLO", shown)

    def test_end_of_a_pipe(self):
        status, shown = self.pipe(b"hello\n")
        self.assertEqual(status, 0)
        self.assertIn(b"HELLO", shown)
        self.assertEqual(sorted(path.name for path in (self.folder / "out").glob("job.*")), ["job.log"])


if __name__ == "__main__":
    unittest.main()
