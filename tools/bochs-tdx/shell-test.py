#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""shell-test.py: `make td SHELL=1` through a pseudo terminal, as a person would use it.

Waits for the prompt, asks the TD's kernel what it runs on, reads a file of the TDX driver,
interrupts a command and leaves with a status, which has to be that of td.sh. Exits with 1,
after what the terminal showed, if that does not come. The shell asks where the cursor is; nobody
answers, as busybox loses what is typed right behind the answer."""

import json
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tools/vm"))
from dialogue import Dialogue  # noqa: E402

PROMPT = b"td# "
# The command's own text must not be the answer.
DIALOGUE = (
    (PROMPT, b"grep -o -m1 tdx_guest /proc/cpuinfo | tr a-z A-Z\n"),
    (b"TDX_GUEST", b"ls /dev/tdx_guest | rev\n"),
    (b"tseug_xdt/ved/", b"sh -c 'echo nuR | rev; exec sleep 99999'\n"),
    (b"Run", b"\x03"),
    (PROMPT, b"exit 7\n"),
    (b"Error 7", b""),
)
LIMIT = 1200


def main():
    talk = Dialogue(["make", "td", "SHELL=1"], DIALOGUE, LIMIT, folder=TOP)
    calls = json.loads((TOP / "build/td/shell.json").read_text()) if not talk.steps else {}
    good = not talk.steps and talk.status == 2 and calls["seamcalls"]["MEM.PAGE.REMOVE"] > 0 and not calls["problems"]
    if not good:
        sys.stdout.buffer.write(talk.shown[-4000:])
        print(f"\nwaiting for {talk.steps[0][0]}" if talk.steps else f"\nexit status {talk.status}")
    print("ok td_shell" if good else "not ok td_shell")
    return not good


if __name__ == "__main__":
    sys.exit(main())
