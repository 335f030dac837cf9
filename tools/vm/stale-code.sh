#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# stale-code.sh [SECONDS]: does an emulator run code that has been patched, or what
# stood there before? QEMU= is the one to try, of any version; by default that of
# make run. Prints how many patches the machine has survived, and what it died of.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

OUT=$BUILD/stale-code
seconds=${1:-250}
tried=${QEMU:-}
# What provides the rest need not be what is tried.
unset QEMU
prepare plain
QEMU=${tried:-$QEMU}
VM_OPTIONS+=(--any-qemu)
mkdir -p "$BUILD"
echo "$seconds" >"$BUILD/stale-code.seconds"
status=0
boot stale-code "$OUT" "$((seconds + 60))" "$BUILD/stale-code.seconds:/etc/seconds" >"$BUILD/stale-code.log" 2>&1 ||
	status=$?
"$QEMU" --version | head -n 1
grep -a 'was switched' "$BUILD/stale-code.log" | tail -n 1 || true
case $status in
0) echo "the machine has survived" ;;
125) echo "the machine died: $(grep -a -m 1 -E 'Oops|BUG:|Kernel panic' "$OUT/console.log" ||
	echo 'without a word')" ;;
*) die "the job failed (exit status $status)" "read $BUILD/stale-code.log" ;;
esac
exit "$status"
