#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""rst.py FILE...: what docutils finds wrong with reStructuredText files.

Roles and directives of Sphinx are none of its business. Exits with 1 if there is
something.
"""

import io
import sys

import docutils.core

SPHINX = ("Unknown interpreted text role", "No role entry", "Unknown directive type", "No directive entry")


def complaints(path):
    messages = io.StringIO()
    with open(path, encoding="utf-8") as source:
        docutils.core.publish_doctree(
            source.read(),
            source_path=path,
            settings_overrides={"warning_stream": messages, "report_level": 2},
        )
    lines = (line for line in messages.getvalue().splitlines() if line.startswith(f"{path}:"))
    return [line for line in lines if not any(word in line for word in SPHINX)]


def main():
    found = [line for path in sys.argv[1:] for line in complaints(path)]
    for line in found:
        print(line)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
