# SPDX-License-Identifier: GPL-2.0
"""A program on a pseudo terminal, used as a person would: by what it shows, then what is typed."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time


class Dialogue:
    """How the program has ended: `shown` by it, the `steps` that were not come to, its exit
    `status`, and whether the terminal's `mode_kept` as it was.

    STEPS are pairs of what has to be shown and what is typed then; AHEAD is typed at once.
    A program that takes longer than LIMIT seconds is ended."""

    def __init__(self, command, steps, limit, folder=None, size=None, ahead=b""):
        pid, line = pty.fork()
        if pid == 0:
            if folder:
                os.chdir(folder)
            os.execvp(command[0], command)
        if size:
            fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        before = termios.tcgetattr(line)
        os.write(line, ahead)
        self.shown, self.steps = b"", list(steps)
        if not self.talk(line, limit):
            os.kill(pid, signal.SIGTERM)
        # The terminal itself is there as long as this end of it.
        self.mode_kept = termios.tcgetattr(line) == before
        self.status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(line)

    def talk(self, line, limit):
        """Until the other end is closed; false if it is not in time."""
        at, end = 0, time.monotonic() + limit
        while time.monotonic() < end:
            if not select.select([line], [], [], 1)[0]:
                continue
            try:
                self.shown += os.read(line, 4096)
            except OSError:  # the other end is closed
                return True
            while self.steps and (found := self.shown.find(self.steps[0][0], at)) >= 0:
                at = found + len(self.steps[0][0])
                os.write(line, self.steps.pop(0)[1])
        return False
