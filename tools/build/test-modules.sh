#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# test-modules.sh KDIR OUT [MAKE_ARGS...]
#	Build the modules that only tests use, the TDX emulator's among them, for the
#	built kernel in KDIR. They are left in OUT, what they are made from in
#	OUT/NAME.build.
#	tdhost.ko uses privmemfd.ko: it is built if MAKE_ARGS have
#	KBUILD_EXTRA_SYMBOLS=, the Module.symvers of that.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage="test-modules.sh KDIR OUT [MAKE_ARGS...]"
kdir=$(readlink -f "${1:?$usage}")
out=$(realpath -m "${2:?$usage}")
shift 2
[ -f "$kdir/include/config/auto.conf" ] ||
	die "$kdir is no kernel build tree" "give the build folder of a kernel with Rust as KDIR"

# build NAME FOLDER MAKE_ARGS...: all modules of a folder.
build() {
	local name=$1 folder=$2
	shift 2
	mkdir -p "$out/$name.build"
	kmake "$kdir" M="$folder" MO="$out/$name.build" "$@" modules >"$out/$name.log" 2>&1 || {
		tail -n 30 "$out/$name.log" >&2
		die "the modules of $folder do not build" "read $out/$name.log"
	}
	cp "$out/$name.build/"*.ko "$out/"
}

build selftests "$TOP/tools/selftests/modules" "$@"
build tdxemu "$TOP/tools/tdx-emu/kernel" "$@"
build stray "$TOP/tools/bochs-tdx/stray" "$@"
build count "$TOP/tools/bochs-tdx/count" "$@"
case " $*" in
*" KBUILD_EXTRA_SYMBOLS="*) build tdhost "$TOP/tools/tdx-emu/tdhost" "$@" ;;
esac
