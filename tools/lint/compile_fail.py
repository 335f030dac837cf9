#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""compile_fail.py MODULE FOLDER OUT: do misuses of rust/ fail to compile?

Compiles each source in FOLDER as src/ is compiled, by the command that Kbuild has
left in the built MODULE. The line `//! Expected: CODE` says with which error, and
no other; `nothing` says that it compiles, as at least one must. Prints what is not
as expected.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

EXPECTED = re.compile(r"^//! Expected: (\w+)$", re.M)


def command_of(module):
    """Kbuild's command for src/main.o, without source, outputs and clippy."""
    text = (module / "src/.main.o.cmd").read_text()
    line = re.search(r"^savedcmd_\S+ := (.*)$", text, re.M).group(1)
    line = line.split(" ; ")[0].replace("$(pound)", "#").replace("$$", "$")
    words = shlex.split(line)
    for option in ("--extern privmemfd_kernel", "--crate-type rlib", "-L ./rust"):
        name, value = option.split()
        for at in range(len(words) - 1):
            if words[at : at + 2] == [name, value]:
                del words[at : at + 2]
                break
    outputs = re.compile(r"--emit=|--out-dir$|src/$|\S*/main\.rs$")
    words = [word for word in words if not outputs.match(word)]
    words = ["rustc" if word.endswith("clippy-driver") else word for word in words]
    return words


def codes(command, directory, source, out):
    """Error codes of a compilation."""
    run = subprocess.run(
        ["env", "RUSTC_BOOTSTRAP=1", *command, "--crate-name", source.stem.replace("-", "_"),
         "--crate-type", "rlib", "--error-format=json", f"--emit=metadata={out}", str(source)],
        cwd=directory, capture_output=True, text=True, check=False,
    )
    found = set()
    for line in run.stderr.splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            found.add(line)
            continue
        if message.get("level") == "error" and not message["message"].startswith("aborting"):
            code = message.get("code")
            found.add(code["code"] if code else message["message"])
    return found


def main():
    module, folder, out = map(Path, sys.argv[1:])
    command = command_of(module)
    directory = re.search(r"OBJTREE=(\S+)", " ".join(command)).group(1)
    command += ["--extern", f"privmemfd_kernel={module.resolve()}/rust/libprivmemfd_kernel.rmeta"]
    controls = 0
    for source in sorted(folder.resolve().glob("*.rs")):
        match = EXPECTED.search(source.read_text())
        if not match:
            print(f"{source.name}: does not say what is expected")
            continue
        expected = set() if match.group(1) == "nothing" else {match.group(1)}
        controls += not expected
        found = codes(command, directory, source, out / "misuse.rmeta")
        if found != expected:
            print(f"{source.name}: expected {expected or 'nothing'}, got {found or 'nothing'}")
    if not controls:
        print("no source compiles")


main()
