#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# mutations.sh [WORD]: break the TDX backend's protocol in one way after the other, and
# see that the tests on the host notice. With WORD: only those whose names contain it.
# Leaves the sources alone.
set -euo pipefail
TOP=$(realpath "$(dirname "$0")/../..")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy/src/backend" "$copy/tools"
cp -r "$TOP/tools/tdx-emu" "$copy/tools/"
target=$TOP/build/cargo-mutations
only=${1:-}
failed=0

# mutation NAME PERL_EXPRESSION [TESTS]: each is applied to the whole of protocol.rs.
mutation() {
	case $1 in *"$only"*) ;; *) return 0 ;; esac
	rm -rf "$copy/src/backend/tdx"
	cp -r "$TOP/src/backend/tdx" "$copy/src/backend/"
	perl -0pi -e "$2" "$copy/src/backend/tdx/protocol.rs"
	if diff -q "$TOP/src/backend/tdx/protocol.rs" "$copy/src/backend/tdx/protocol.rs" >/dev/null; then
		echo "not applied: $1"
		failed=1
	elif (cd "$copy/tools/tdx-emu" && cargo test --locked --quiet -p tdx-protocol --target-dir "$target" "${3:-moves}") \
		>"$copy/log" 2>&1; then
		echo "NOT CAUGHT:  $1"
		failed=1
	elif ! grep -q '^test result: FAILED' "$copy/log"; then
		echo "does not build: $1"
		tail -n 5 "$copy/log"
		failed=1
	else
		echo "caught:      $1 ($(sed -n 's/^test result: FAILED.* \([0-9]*\) failed.*/\1/p' "$copy/log" | head -1) tests fail)"
	fi
}

mutation "no TRACK" 's/self\.settle\(\|\| self\.td\.track\(\)\)\.0/Verdict::Done/'
mutation "no kick" 's/self\.td\.kick\(\);//'
mutation "no WBINVD" 's/session\.settle\(\|\| td\.wbinvd\(nr\)\)\.0 != Verdict::Done/false/'
mutation "no BLOCK" 's/match self\.settle\(\|\| self\.td\.block\(nr\)\)\.0/match Verdict::Done/'
# shellcheck disable=SC2016 # Perl expands it
mutation "TRACK before BLOCK" 's/(let mut blocked = )/let early = self.track();\n        $1/; s/let tracked = self\.track\(\);/let tracked = early;/'
mutation "no UNBLOCK after a failure" \
	's/match self\.settle_within\(&self\.last_patience, \|\| self\.td\.unblock\(page\.0\)\)/match (Verdict::Done, Answer { status: 0, rcx: 0, rdx: 0 })/'
mutation "the old page is not checked" 's/if answer\.page\(\) == self\.td\.old_page\(nr\) \{/if true {/'
mutation "a page that stays blocked is taken for the TD's as before" 's/Outcome::Stuck\n    \}/why\n    }/' faults
mutation "a TD with a blocked page goes on" 's/self\.lose\(TdLost::Dead\);\n        Outcome::Stuck/Outcome::Stuck/' faults
mutation "an old page is taken for clean" 's/\*outcome = Outcome::MovedUnclean;//' faults
mutation "vCPUs are never held" 's/self\.td\.hold\(\);//'
exit "$failed"
