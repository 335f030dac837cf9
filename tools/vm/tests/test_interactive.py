# SPDX-License-Identifier: GPL-2.0
"""vm.py --interactive and --input, the host's half: a terminal is the script's line, a pipe its
standard input."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import termios
import unittest
from pathlib import Path

VM = Path(__file__).resolve().parents[1] / "vm.py"

# In QEMU's place: drops what comes too early, shows a prompt, repeats what is typed in
# capitals, takes nothing more after "hang", ends at "exit N" with that status. Without a line it shows what the initramfs has
# for the script, and ends with 0.
MACHINE = r"""#!/usr/bin/env python3
import io, os, re, sys, tarfile, time
words = " ".join(sys.argv)
raw, typed = re.search(r"path=([^\s,]+)(?:,input-path=(\S+))?", words).groups()
initramfs = open(re.search(r"-initrd (\S+)", words)[1], "rb").read()
token = re.search(rb"TOKEN=(\S+)", initramfs)[1]
with open(typed or os.devnull, "rb", buffering=0) as line, open(raw, "ab", buffering=0) as shown:
    if typed:
        time.sleep(0.5)
        os.set_blocking(line.fileno(), False)
        line.read()
        os.set_blocking(line.fileno(), True)
    shown.write(b"machine\nvm# ")
    text, status = b"", None
    if not typed:
        found = re.search(rb"etc/input\0+(.*?)\0*070701", initramfs, re.DOTALL)
        shown.write(found[1].upper() if found else b"no input")
        status = 0
    while status is None:
        text += line.read(1)
        if text[-1:] in b"\r\n":
            found = re.match(rb"exit (\d+)", text)
            status = int(found[1]) if found else None
            shown.write(text.strip().upper() + b"\nvm# ")
            if text.startswith(b"hang"):
                # Takes no input any more: vm.py has to end it, long before this is over.
                time.sleep(1000)
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
            sys.executable, str(VM), "--any-qemu", "--qemu", str(machine),
            "--kernel", str(self.folder / "kernel"), "--out", str(self.folder / "out"), str(self.folder / "job"),
        ]  # fmt: skip

    def run_at_terminal(self):
        """On a terminal of its own: the process, the terminal's other end, its mode before."""
        ready, go = os.pipe()
        pid, line = pty.fork()
        if pid == 0:
            os.read(ready, 1)
            os.execv(self.command[0], [*self.command, "--interactive"])
        self.addCleanup(os.close, line)
        before = termios.tcgetattr(line)
        os.write(go, b"!")
        os.close(ready)
        os.close(go)
        return pid, line, before

    def ended(self, pid, line):
        """Its status; what it shows is read to its end, or the other side could wait for that."""
        with contextlib.suppress(OSError):
            while os.read(line, 1000):
                pass
        # The terminal itself is there as long as this end of it.
        self.after = termios.tcgetattr(line)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def test_terminal(self):
        pid, line, before = self.run_at_terminal()
        shown = self.until(line, b"vm# ")
        # Raw: nothing is echoed, and Ctrl-C is the machine's.
        self.assertFalse(termios.tcgetattr(line)[3] & (termios.ECHO | termios.ISIG | termios.ICANON))
        os.write(line, b"hello\x03there\r")
        shown += self.until(line, b"HELLO\x03THERE\nvm# ")
        os.write(line, b"exit 3\r")
        self.until(line, b"EXIT 3")
        self.assertEqual(self.ended(pid, line), 3)
        self.assertEqual(before, self.after)
        self.assertNotIn(b"hello", shown)

    def until(self, line, wanted):
        shown = b""
        while wanted not in shown:
            shown += os.read(line, 1000)
        return shown

    def test_typed_ahead(self):
        pid, line, _ = self.run_at_terminal()
        os.write(line, b"early\nexit 4\n")
        self.until(line, b"EARLY\nvm# EXIT 4")
        self.assertEqual(self.ended(pid, line), 4)

    def test_escape(self):
        pid, line, before = self.run_at_terminal()
        self.until(line, b"vm# ")
        os.write(line, b"abc\x1d")
        self.assertEqual(self.ended(pid, line), 125)
        self.assertEqual(before, self.after)

    # More than the line to the machine holds.
    PASTE = 300 * (999 * b"x" + b"\r")

    def paste(self, line, data):
        """What is shown meanwhile; fails if nobody takes it."""
        shown = b""
        os.set_blocking(line, False)
        while data:
            output, room, _ = select.select([line], [line], [], 10)
            self.assertTrue(output or room, "nobody reads what is typed")
            if output:
                shown += os.read(line, 4096)
            if room:
                data = data[os.write(line, data) :]
        os.set_blocking(line, True)
        return shown

    def test_large_paste(self):
        pid, line, _ = self.run_at_terminal()
        self.until(line, b"vm# ")
        shown = self.paste(line, self.PASTE + b"exit 6\r")
        shown += self.until(line, b"EXIT 6")
        self.assertEqual(shown.count(999 * b"X"), 300)
        self.assertEqual(self.ended(pid, line), 6)

    def test_escape_of_a_machine_that_hangs(self):
        pid, line, _ = self.run_at_terminal()
        self.until(line, b"vm# ")
        os.write(line, b"hang\r")
        self.until(line, b"HANG")
        self.addCleanup(self.kill, pid)
        self.paste(line, self.PASTE + b"\x1d")
        self.assertEqual(self.ended(pid, line), 125)

    def kill(self, pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def pipe(self, *options, typed=b""):
        done = subprocess.run(
            [*self.command, *options], input=typed, capture_output=True, timeout=30, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def test_pipe(self):
        # What a terminal would swallow, and more than it holds.
        typed = b"hello\x03\x04\x11\x16\r" + 9999 * b"x" + b"\nno end of line"
        status, shown = self.pipe("--input", "-", typed=typed)
        self.assertEqual(status, 0)
        self.assertIn(typed.upper(), shown)
        self.assertEqual(sorted(path.name for path in (self.folder / "out").glob("job.*")), ["job.log"])

    def test_no_input(self):
        self.assertIn(b"no input", self.pipe(typed=b"not for the script")[1])

    def test_no_terminal(self):
        status, shown = self.pipe("--interactive")
        self.assertEqual(status, 125)
        self.assertIn(b"standard input is no terminal\n       give it by --input -", shown)


if __name__ == "__main__":
    unittest.main()
