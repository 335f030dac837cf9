# SPDX-License-Identifier: GPL-2.0
"""For Sphinx: `make doc`. Nothing but text, no extension is needed."""

project = "privmemfd"
root_doc = "index"
html_theme = "alabaster"
