#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make bench: the cost of a move as ratios of one run. Leaves build/bench.json.
#
# PROFILE=1 says instead where the instructions go, by function: build/profile.json,
# and a flame graph of each measurement in build/bench/profile/.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

INFERNO_VERSION=0.12.8
OUT=$BUILD/bench

# flame_graphs: of the stacks in OUT/profile. A program of its own, for its licence does
# not go with ours.
flame_graphs() {
	local root=$CACHE/inferno stacks
	if [ ! -x "$root/bin/inferno-flamegraph" ]; then
		say "building inferno $INFERNO_VERSION, which draws flame graphs"
		cargo install --quiet --locked --root "$root" inferno --version "$INFERNO_VERSION" >&2 ||
			die "cannot build inferno $INFERNO_VERSION" "check that cargo can reach its registry"
	fi
	for stacks in "$OUT"/profile/*.folded; do
		"$root/bin/inferno-flamegraph" --countname samples --title "$(basename "$stacks" .folded)" \
			"$stacks" >"${stacks%.folded}.svg"
	done
}

prepare plain
# Instructions are the same on every machine and under any load.
VM_OPTIONS+=(--instructions)
name=bench
if [ -n "${PROFILE:-}" ]; then
	name=profile
	JOB_ARGUMENTS=(--rounds 2 --profile /out/profile --only "populate,request,mapped,core,tdx")
fi
result=$BUILD/$name.json
rm -f "$result"
say "booting a VM whose clock counts instructions"
status=0
boot bench "$OUT" 900 || status=$?
if [ "$status" -ne 0 ] || [ ! -f "$OUT/bench.json" ]; then
	die "the benchmark failed (exit status $status)" "read its output above and $(kernel_log "$OUT")"
fi
mv "$OUT/bench.json" "$result"
"$TOP/tools/vm/kernel-reports" "$(kernel_log "$OUT")" || exit 1
if [ "$name" = profile ]; then
	flame_graphs
	say "$result, and a flame graph of each measurement: $OUT/profile/*.svg"
else
	cat "$result"
fi
