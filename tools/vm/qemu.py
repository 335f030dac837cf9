#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Say whether a QEMU can be used here: qemu.py PROGRAM.

Machines hung with 10.0.2 for want of interrupts, and no QEMU before 10.2 was counted since; before
8.1 a CPU may execute a stale translation of code that another has just patched: machines die
of it (Documentation/testing.rst, "Why QEMU 10.2").
"""

import re
import subprocess
import sys

MINIMUM = (10, 2)
ADVICE = (
    "make provision gets one that is new enough, as far as the machine's own is not; "
    "or name yours: QEMU=/path/to/qemu-system-x86_64"
)


def version(program):
    """Its version, (10, 2, 0); ValueError with a message if it has none."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(f"cannot run QEMU, {program}: {error.strerror}") from error
    found = re.search(r"QEMU emulator version (\d+)\.(\d+)(?:\.(\d+))?", said.stdout)
    if not found:
        words = (said.stdout + said.stderr).strip().splitlines() or ["nothing"]
        raise ValueError(f"{program} is no QEMU: asked for its version it says: {words[0]}")
    return tuple(int(number or 0) for number in found.groups())


def complaint(program):
    """What is wrong with a QEMU; None if nothing is."""
    try:
        found = version(program)
    except ValueError as error:
        return str(error)
    if found >= MINIMUM:
        return None
    return (
        f"{program} is QEMU {'.'.join(map(str, found))}, "
        f"but {'.'.join(map(str, MINIMUM))} or newer is needed"
    )


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} PROGRAM")
    wrong = complaint(sys.argv[1])
    if wrong:
        sys.exit(f"error: {wrong}\n       {ADVICE}")


if __name__ == "__main__":
    main()
