#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""td-initrd.py OUT INIT MODULES: the archive a TD's kernel starts from: our first process,
the modules it needs and, for a shell, busybox. MODULES is a folder as parts.sh makes it, or
what belongs into /lib/modules/RELEASE."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "vm"))
import parts  # noqa: E402
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
        if (modules / "kernel").is_dir():
            for number, file in enumerate(parts.module_files(modules, parts.MODULES)):
                archive.file(f"modules/{number:02}-{file.name.split('.')[0]}.ko", parts.uncompressed(file))
        else:
            archive.add(modules, "modules")
        archive.close()


if __name__ == "__main__":
    main()
