#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""rust-analyzer.py KERNEL_PROJECT FFI TOP: rust-project.json of the kernel and of this module.

The kernel's own generator looks for crates where a Makefile or Kbuild lies beside them;
ours are named by the Kbuild of the top folder. FFI is the file of generated bindings."""

import json
import sys
from pathlib import Path

USES = ("core", "compiler_builtins", "ffi", "kernel", "pin_init", "bindings", "macros", "build_error")


def with_module(project, ffi, top):
    """The project with the two crates of the module behind the kernel's."""
    crates = project["crates"]
    number = {crate["display_name"]: at for at, crate in enumerate(crates)}
    like = crates[number["kernel"]]

    def append(name, root, uses, environment):
        number[name] = len(crates)
        crates.append(
            {
                "display_name": name,
                "root_module": str(top / root),
                "is_workspace_member": True,
                "is_proc_macro": False,
                "deps": [{"crate": number[use], "name": use} for use in uses if use in number],
                "cfg": like["cfg"],
                "edition": "2021",
                "env": like["env"] | environment,
            }
        )

    append("privmemfd_kernel", "rust/privmemfd_kernel.rs", USES, {"PRIVMEMFD_FFI": str(ffi)})
    append("privmemfd", "src/main.rs", (*USES, "privmemfd_kernel"), {})
    return project


def main():
    source, ffi, top = map(Path, sys.argv[1:])
    project = with_module(json.loads(source.read_text()), ffi, top)
    (top / "rust-project.json").write_text(json.dumps(project, indent=1) + "\n")


if __name__ == "__main__":
    main()
