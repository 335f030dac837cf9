#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# emulator.sh stale-code|lost-interrupt|unlocked-flags [SECONDS]: has an emulator the bug (testing.rst)?
# QEMU= is the one to try, of any version; by default that of make run. Prints what the
# machine got done and what it died of; fails if it has the bug.
#
#   stale-code      runs code that has been patched as it was before
#   lost-interrupt  a CPU that leaves a nested guest loses an interrupt
#   unlocked-flags  a CPU's flags are written by another
#
# CPU= is the one on which the guest runs, 0 for unlocked-flags and 1 for lost-interrupt, which
# has one on the next as well.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

usage="emulator.sh stale-code|lost-interrupt|unlocked-flags [SECONDS]"
bug=${1:?$usage}
case $bug in
stale-code) seconds=250 ;;
lost-interrupt) seconds=60 cpu=1 ;;
unlocked-flags) seconds=60 cpu=0 ;;
*) die "no bug '$bug'" "$usage" ;;
esac
seconds=${2:-$seconds}
OUT=$BUILD/emulator-$bug
tried=${QEMU:-}
# What provides the rest need not be what is tried.
unset QEMU
prepare plain
QEMU=${tried:-$QEMU}
VM_OPTIONS+=(--any-qemu)
JOB_ARGUMENTS=("$bug" "$seconds" "${CPU:-${cpu:-}}")
status=0
boot emulator "$OUT" "$((seconds + 60))" >"$OUT.log" 2>&1 || status=$?
"$QEMU" --version | head -n 1
[ ! -s "$OUT/job.log" ] || tail -n 1 "$OUT/job.log"
case $status in
0) echo "the machine has survived" ;;
1) echo "the machine has survived, but not all was right" ;;
124) echo "the machine hangs" ;;
125) echo "the machine died: $(grep -a -m 1 -E 'Oops|BUG:|Kernel panic' "$OUT/console.log" ||
	echo 'without a word')" ;;
*) die "the job failed (exit status $status)" "read $OUT.log" ;;
esac
exit "$status"
