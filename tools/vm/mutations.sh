#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# mutations.sh: break the TDX backend of the module in one way after the other,
# and see that the tests of TDs notice, in a VM. Leaves the sources alone. The
# protocol alone has tests on the host: tools/tdx-emu/mutations.sh.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"
# shellcheck source-path=SCRIPTDIR source=tdx-mutants.sh
. "$TOP/tools/vm/tdx-mutants.sh"

OUT=$BUILD/mutations
failed=0

# mutant NAME FILE PERL_EXPRESSION: the expression sees the whole file.
# shellcheck disable=SC2317 # called by tdx_mutants
mutant() {
	local name=$1 file=$2 copy=$OUT/source status=0
	rm -rf "$copy" "$OUT/module" "$OUT/vm"
	mkdir -p "$copy" "$OUT/module"
	cp -r "$TOP/Kbuild" "$TOP/Makefile" "$TOP/rust" "$TOP/src" "$TOP/include" "$copy/"
	perl -0pi -e "$3" "$copy/$file"
	if diff -q "$TOP/$file" "$copy/$file" >/dev/null; then
		echo "not applied: $name"
		failed=1
		return
	fi
	kmake "$KERNEL" M="$copy" MO="$OUT/module" modules >"$OUT/build.log" 2>&1 || {
		echo "does not build: $name"
		failed=1
		return
	}
	MODULE=$OUT/module/privmemfd.ko
	boot mutant "$OUT/vm" 900 >"$OUT/vm.log" 2>&1 || status=$?
	case $status in
	0)
		echo "NOT CAUGHT:  $name"
		failed=1
		;;
	126)
		echo "did not run: $name"
		failed=1
		;;
	*) echo "caught:      $name ($(grep -a -m1 '^not ok' "$OUT/vm.log" || echo "exit status $status"))" ;;
	esac
}

prepare plain
mkdir -p "$OUT"
tdx_mutants mutant
exit "$failed"
