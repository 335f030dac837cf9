#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""td-initrd.py OUT INIT MODULES: the archive a TD's kernel starts from: our first process,
Debian's modules and, for a shell, busybox."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "vm"))
import vm  # noqa: E402


def main():
    out, init, modules = (Path(argument) for argument in sys.argv[1:])
    with open(out, "wb") as stream:
        archive = vm.Archive(stream)
        for name in ("dev", "proc", "sys", "tmp"):
            archive.folder(name)
        archive.entry("dev/console", 0o020600, device=(5, 1))
        archive.file("init", init.read_bytes())
        archive.add(vm.static_busybox(), "bin/busybox")
        archive.link("bin/sh", "busybox")
        archive.add(modules, "modules")
        archive.close()


if __name__ == "__main__":
    main()
