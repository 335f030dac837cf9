#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# mutations.sh [WORD]: break the module in one way after the other, its TDX backend and
# what it does with lost pages, and see that the tests notice, in a VM. With WORD: only
# those whose names contain it. Leaves the sources alone. The protocol alone has tests on
# the host: tools/tdx-emu/mutations.sh.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"
# shellcheck source-path=SCRIPTDIR source=tdx-mutants.sh
. "$TOP/tools/vm/tdx-mutants.sh"

OUT=$BUILD/mutations
only=${1:-}
failed=0

# mutant NAME FILE PERL_EXPRESSION: the expression sees the whole file.
# shellcheck disable=SC2317 # called by tdx_mutants
mutant() {
	local name=$1 file=$2 copy=$OUT/source status=0
	case $1 in *"$only"*) ;; *) return 0 ;; esac
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
JOB_ARGUMENTS=(tdx tdx_race)
tdx_mutants mutant
JOB_ARGUMENTS=(hwpoison)
lost=src/file/lost.rs
mutant "a lost page is forgotten" $lost 's/self\.set\.store\(self\.set\.load\(Relaxed\) \+ 1, Relaxed\);//'
mutant "a lost page stays in its file" $lost 's/if let Err\(e\) = file\.mapping\(\)\.expel\(folio\) \{/if let Err(e) = Ok::<(), Error>(()) {/'
mutant "a page that could not be read is not told of" $lost 's/file\.defer\(&QUEUE\);/let _ = \&QUEUE;/'
mutant "a hole does not heal" src/file/allocate.rs 's/file\.object\(\)\.lost\.clear\(part, \|_\| true\);/drop(part);/'
exit "$failed"
