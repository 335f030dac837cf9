#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make bench: the cost of a move as ratios of one run. Leaves build/bench.json.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

rm -f "$BUILD/bench.json"
prepare plain
# Instructions are the same on every machine and under any load.
VM_OPTIONS+=(--instructions)
say "booting a VM whose clock counts instructions"
status=0
boot bench "$BUILD/bench" 900 || status=$?
if [ "$status" -ne 0 ] || [ ! -f "$BUILD/bench/bench.json" ]; then
	die "the benchmark failed (exit status $status)" "read its output above and $(kernel_log "$BUILD/bench")"
fi
cp "$BUILD/bench/bench.json" "$BUILD/bench.json"
"$TOP/tools/vm/kernel-reports" "$(kernel_log "$BUILD/bench")" || exit 1
cat "$BUILD/bench.json"
