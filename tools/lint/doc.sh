#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make doc: the code's documentation by rustdoc and, if Sphinx is installed,
# the project's.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../vm/prepare.sh
. "$(dirname "$0")/../vm/prepare.sh"

OUT=$BUILD/doc
prepare plain
say "documentation of the module"
"$TOP/tools/lint/module-rustdoc" "$BUILD/module-plain" "$OUT/module"
say "documentation of the programs"
cargo_tools doc --workspace --no-deps --quiet
ln -sfn "../cargo/$TARGET/doc" "$OUT/tools"
say "documentation of the TDX module model"
(cd "$TOP/tools/tdx-emu" && cargo doc --quiet --locked --workspace --no-deps --target-dir "$BUILD/cargo-model")
ln -sfn ../cargo-model/doc "$OUT/tdx-emu"
if command -v sphinx-build >/dev/null; then
	say "documentation of the project"
	sphinx-build -q -W -b html "$TOP/Documentation" "$OUT/project"
else
	say "no Sphinx: read Documentation/ as text, or install python3-sphinx"
fi
say "see build/doc/"
