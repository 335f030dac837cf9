#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""layers.py FOLDER MODULE...: does each module of a crate use only those below it?

The modules come lowest first. Prints each use that goes up, and each module that
is not in the list. main.rs, which knows all, and tests are left out.
"""

import re
import sys
from pathlib import Path

COMMENT = re.compile(r"//.*")


def top_names(text):
    """Names that a source has directly behind `crate::`, in braces or not."""
    text = COMMENT.sub("", text)
    for match in re.finditer(r"\bcrate::", text):
        if text[match.end()] != "{":
            yield re.match(r"\w+", text[match.end() :]).group()
            continue
        depth = 0
        first = True
        for token in re.findall(r"\w+|[{},]", text[match.end() :]):
            if token == "{":
                depth += 1
            elif token == "}":
                depth -= 1
                if depth == 0:
                    break
            if depth == 1:
                if token in "{},":
                    first = token != "}"
                elif first:
                    yield token
                    first = False


def main():
    root = Path(sys.argv[1])
    ranks = {name: rank for rank, name in enumerate(sys.argv[2:])}
    for path in sorted(root.rglob("*.rs")):
        relative = path.relative_to(root)
        module = relative.parts[0].removesuffix(".rs")
        if module == "main" or path.name == "tests.rs":
            continue
        if module not in ranks:
            print(f"{relative}: {module} is no layer, see lint.sh")
            continue
        for name in top_names(path.read_text()):
            if name != module and ranks.get(name, len(ranks)) >= ranks[module]:
                print(f"{relative}: {module} is below {name}")


main()
