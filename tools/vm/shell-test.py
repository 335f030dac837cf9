#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""shell-test.py [WORD...]: make shell through a pseudo terminal, as a person would use it.

Types ahead and at the prompt, interrupts a command by Ctrl-C, leaves a file for the host, and
ends the shell with a status; then scripts by a pipe, one command by CMD=, and a
machine of another size. Prints KTAP."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from dialogue import Dialogue

TOP = Path(__file__).resolve().parents[2]
SHELL = str(TOP / "tools/vm/shell.sh")
PROMPT = b"vm# "
# Before there is a machine; the command's own text must not be the answer.
TYPED_AHEAD = b"echo $((60 * 700 + 8))\n"
ROWS, COLUMNS = 33, 77
DIALOGUE = (
    (b"42008\r\n", b""),
    (PROMPT, b"echo $((600 * 70 + 7))\n"),
    (b"42007\r\n", b""),
    (PROMPT, b"stty size\n"),
    (f"{ROWS} {COLUMNS}".encode(), b""),
    # One process group, so that Ctrl-C finds it between two programs as well.
    (PROMPT, b"sh -c 'ls /dev/kvm /dev/privmemfd | rev; sleep 1000'\n"),
    (b"dfmemvirp/ved/", b"\x03"),
    (PROMPT, b"echo kept >/out/kept; exit 3\n"),
)
LIMIT = 400


def terminal():
    """What is wrong with a shell on a terminal; None if nothing is."""
    talk = Dialogue([SHELL], DIALOGUE, LIMIT, size=(ROWS, COLUMNS), ahead=TYPED_AHEAD)
    kept = TOP / "build/shell/kept"
    for wrong, text in (
        (talk.steps, f"{talk.steps and talk.steps[0][0]} did not come"),
        (talk.status != 3, f"exit status {talk.status}, not that of the shell"),
        (not talk.mode_kept, "the terminal is left in another mode"),
        (not kept.exists() or kept.read_text() != "kept\n", f"no {kept}"),
    ):
        if wrong:
            return f"{text}\n{talk.shown[-3000:].decode(errors='replace')}"
    return None


def run(status, wanted, typed=b"", **environment):
    with subprocess.Popen(
        [SHELL], env=os.environ | environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as shell:  # fmt: skip
        try:
            shown, _ = shell.communicate(typed, LIMIT)
        except subprocess.TimeoutExpired:
            # The machine as well: its own limit is a day.
            os.killpg(shell.pid, signal.SIGKILL)
            return f"no end in {LIMIT} s"
    if shell.returncode == status and wanted in shown:
        return None
    return f"exit status {shell.returncode}:\n{shown[-3000:].decode(errors='replace')}"


CASES = (
    ("a terminal: prompt, size, Ctrl-C, files, status", terminal),
    ("a pipe is a script, and its status returned", lambda: run(5, b"42007", b"echo $((600 * 70 + 7)); exit 5\n")),
    ("the end of a pipe ends the shell", lambda: run(0, b"42007", b"echo $((600 * 70 + 7))\n")),
    ("CMD= is run, and its status returned", lambda: run(7, b"42007", CMD="echo $((600 * 70 + 7)); exit 7")),
    (
        "MIB=, VCPUS= and NUMA= are the machine's",
        lambda: run(
            0, b"1 3 5", MIB="1024", VCPUS="1", NUMA="3",
            CMD="echo $(nproc) $(ls -d /sys/devices/system/node/node* | wc -l) $(($(awk '/^MemTotal/ { print $2 }' /proc/meminfo) * 6 >> 20))",
        ),
    ),
)


def main():
    words = sys.argv[1:]
    cases = [case for case in CASES if not words or any(word in case[0] for word in words)]
    print(f"KTAP version 1\n1..{len(cases)}", flush=True)
    failed = 0
    for number, (name, case) in enumerate(cases, 1):
        wrong = case()
        failed += bool(wrong)
        for line in (wrong or "").splitlines():
            print(f"# {line}")
        print(f"{'not ' if wrong else ''}ok {number} {name}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
