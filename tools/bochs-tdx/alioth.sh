#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# alioth.sh: build a second VMM that knows TDX, unmodified, from its crate, and print the
# path of the static program. Nothing is installed. Exits with 4, kselftest's SKIP, if it is
# not to be had.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../build/lib.sh
. "$(dirname "$0")/../build/lib.sh"

VERSION=0.12.0
TARGET=x86_64-unknown-linux-gnu
OUT=$CACHE/alioth-$VERSION

if [ ! -x "$OUT/bin/alioth" ]; then
	exclusive alioth
fi
if [ ! -x "$OUT/bin/alioth" ]; then
	need_disk "$CACHE" 1500
	say "building alioth $VERSION (minutes, once)"
	RUSTFLAGS='-C target-feature=+crt-static' cargo install --quiet --locked --target "$TARGET" \
		--target-dir "$OUT.build" --root "$OUT" "alioth-cli@$VERSION" >&2 || {
		(die "alioth $VERSION does not build" "check the network; its crate needs Rust 1.85 or newer") || exit 4
	}
	rm -rf "$OUT.build"
fi
echo "$OUT/bin/alioth"
