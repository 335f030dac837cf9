#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make rust-analyzer: rust-project.json for rust/ and src/, as the plain test kernel builds
# them. tools/ is a cargo workspace, which rust-analyzer finds by itself.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../vm/prepare.sh
. "$(dirname "$0")/../vm/prepare.sh"

"$TOP/tools/build/provision.sh" || exit 1
KDIR=$("$TOP/tools/build/kernel.sh" plain) || exit 1
build_module plain
folder=$BUILD/rust-analyzer
mkdir -p "$folder"
kmake "$KDIR" M="$TOP" MO="$folder" rust-analyzer >"$folder.log" 2>&1 ||
	die "the kernel makes no rust-project.json" "read $folder.log"
"$TOP/tools/build/rust-analyzer.py" "$folder/rust-project.json" "$BUILD/module-plain/rust/ffi_generated.rs" "$TOP"
say "$TOP/rust-project.json"
