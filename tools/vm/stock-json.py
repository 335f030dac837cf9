#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""stock-json.py CONFIG RELEASE RESULT RUN_JSON OUT: what make stock has found, in one object.

CONFIG and the file RELEASE are the kernel's, RESULT is what ktap.py says, RUN_JSON is the
demonstration's. "kernel_reports" is for kernel-reports to fill in. Exit status 1 if the
demonstration has left no result or a mismatch.
"""

import json
import re
import sys
from pathlib import Path


def config(text, name):
    found = re.search(rf'^CONFIG_{name}="(.*)"$', text, re.MULTILINE)
    return found[1] if found else None


def counts(result):
    """passed, failed and skipped of ktap.py's last line."""
    last = result.rstrip().splitlines()[-1]
    found = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", last)
    return dict(zip(("passed", "failed", "skipped"), map(int, found.groups())))


def main():
    text, release, result = (Path(name).read_text() for name in sys.argv[1:4])
    run, out = map(Path, sys.argv[4:])
    act = json.loads(run.read_text()) if run.exists() else {}
    value = {
        "kernel": release.strip(),
        "compiler": config(text, "CC_VERSION_TEXT"),
        "rustc": config(text, "RUSTC_VERSION_TEXT"),
        **counts(result),
        "relocated_pages": act.get("relocated_pages"),
        "mismatches": act.get("mismatches"),
        "kernel_reports": None,
    }
    out.write_text(json.dumps(value, indent=2) + "\n")
    return 0 if act.get("relocated_pages") and act.get("mismatches") == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
