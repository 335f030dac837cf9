#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which lines of KVM were executed on the emulated TDX host.

coverage.py OUT.json KSRC REASONS DIR...: reads count.gz of each DIR (save_counters
in tdx-guest.sh), the compiler's notes beside the objects of KVM's modules, and
KVM's unpatched source in KSRC. Prints how much of tdx.c and of the lines that
differ from KSRC was executed, and what was not. REASONS names lines that cannot
be. Exits with 1 if there are others.
"""

import difflib
import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

LLVM_COV = f"llvm-cov-{os.environ.get('LLVM_VERSION', '19')}"
OVERLAY = "/overlay/"
TDX = "arch/x86/kvm/vmx/tdx.c"


class Lines:
    """How often lines and functions were executed, by file of the overlay."""

    def __init__(self):
        self.overlay = None
        self.counts = defaultdict(Counter)
        self.functions = defaultdict(dict)

    def add(self, text, folder):
        name = None
        for line in text.splitlines():
            kind, _, rest = line.partition(":")
            if kind == "file":
                path = os.path.normpath(folder / rest)
                root, inside, name = path.partition(OVERLAY)
                if not inside or not name.endswith((".c", ".h")):
                    name = None
                    continue
                self.overlay = Path(root + OVERLAY)
            elif name and kind == "lcount":
                number, count = map(int, rest.split(","))
                self.counts[name][number] += count
            elif name and kind == "function":
                start, count, function = rest.split(",")
                before = self.functions[name].get(function, (0, 0))[1]
                self.functions[name][function] = (int(start), before + int(count))

    def read(self, path):
        """What one machine brought back."""
        for name, data in split(gzip.decompress(path.read_bytes())):
            place = Path(os.path.normpath(name))
            root, inside, _ = str(place).partition(OVERLAY)
            notes = place.with_suffix(".gcno")
            if not inside or not notes.exists():
                continue
            with tempfile.TemporaryDirectory() as work:
                (Path(work) / "object.gcda").write_bytes(data)
                shutil.copyfile(notes, Path(work) / "object.gcno")
                subprocess.run(
                    [LLVM_COV, "gcov", "-i", "object.gcda"], cwd=work, check=True, stdout=subprocess.DEVNULL
                )
                # Kbuild compiles what belongs to a module in its folder.
                self.add((Path(work) / "object.gcda.gcov").read_text(), Path(root + OVERLAY) / "arch/x86/kvm")

    def function_at(self, name, number):
        starts = sorted((start, function) for function, (start, _) in self.functions[name].items())
        return next((function for start, function in reversed(starts) if start <= number), "?")


def split(data):
    """Names and contents, as count/count.c writes them."""
    while data:
        parts = []
        for _ in range(2):
            (size,) = struct.unpack_from("<I", data)
            parts.append(data[4 : 4 + size])
            data = data[4 + size :]
        yield parts[0].decode(), parts[1]


def changed(old, new):
    """Numbers of the lines of new that are not in old."""
    lines = new.read_text().splitlines()
    if not old.exists():
        return set(range(1, len(lines) + 1))
    matcher = difflib.SequenceMatcher(None, old.read_text().splitlines(), lines, autojunk=False)
    return {
        number
        for tag, _, _, start, end in matcher.get_opcodes()
        if tag in ("replace", "insert")
        for number in range(start + 1, end + 1)
    }


def read_reasons(path):
    """FILE FUNCTION: CODE => REASON, one to a line."""
    reasons = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            place, _, reason = line.partition(" => ")
            where, _, code = place.partition(": ")
            name, _, function = where.partition(" ")
            reasons[name, function, code.strip()] = reason
    return reasons


def share(counts):
    executed = sum(count > 0 for count in counts)
    percent = round(100 * executed / len(counts), 1) if counts else 100.0
    return {"lines": len(counts), "executed": executed, "percent": percent}


def show(name, value):
    print(f"  {name:40} {value['percent']:5.1f} %  {value['executed']:5} of {value['lines']}")


def missed(lines, name, numbers, reasons, used):
    """The lines that were not executed, with what they are part of."""
    source = (lines.overlay / name).read_text().splitlines()
    found = []
    for number in sorted(n for n in numbers if lines.counts[name][n] == 0):
        code = re.sub(r"\s+", " ", source[number - 1].strip())
        function = lines.function_at(name, number)
        key = (name, function, code)
        used.add(key)
        found.append(
            {
                "file": name,
                "line": number,
                "function": function,
                "code": code,
                "reason": reasons.get(key),
            }
        )
    return found


def main():
    target, ksrc, reasons_file, *folders = map(Path, sys.argv[1:])
    lines = Lines()
    for folder in folders:
        lines.read(folder / "count.gz")
    if not lines.counts[TDX]:
        print("error: nothing was counted", file=sys.stderr)
        return 1
    reasons = read_reasons(reasons_file)
    used = set()
    tdx = share(lines.counts[TDX].values())
    tdx["functions_never_called"] = sorted(f for f, (_, count) in lines.functions[TDX].items() if count == 0)
    ours, not_executed = {}, []
    for name in sorted(name for name in lines.counts if (lines.overlay / name).exists()):
        numbers = changed(ksrc / name, lines.overlay / name) & set(lines.counts[name])
        if numbers:
            ours[name] = share([lines.counts[name][n] for n in numbers])
            not_executed += missed(lines, name, numbers, reasons, used)
    total = {key: sum(part[key] for part in ours.values()) for key in ("lines", "executed")}
    total["percent"] = round(100 * total["executed"] / total["lines"], 1)
    never = {
        TDX: sorted(n for n, count in lines.counts[TDX].items() if count == 0),
    }
    target.write_text(
        json.dumps(
            {"tdx.c": tdx, "series": total, "files": ours, "not_executed": not_executed, "lines_never": never},
            indent=2,
        )
        + "\n"
    )

    print("executed on the emulated TDX host:")
    show("tdx.c", tdx)
    show("lines of the series", total)
    for name, value in ours.items():
        show(f"  {name}", value)
    print("functions of tdx.c that were never called:")
    print("  " + "\n  ".join(tdx["functions_never_called"]))
    print("lines of the series that were not executed:")
    for line in not_executed:
        print(f"  {line['file']}:{line['line']} {line['function']}: {line['code']}")
        print(f"      {line['reason'] or 'NO REASON'}")
    unknown = sum(not line["reason"] for line in not_executed)
    stale = ["{} {}: {}".format(*key) for key in reasons if key not in used]
    for line in stale:
        print(f"executed, though {reasons_file.name} has it: {line}")
    if unknown:
        print(f"{unknown} lines of the series were not executed for no known reason", file=sys.stderr)
    return bool(unknown or stale)


if __name__ == "__main__":
    sys.exit(main())
