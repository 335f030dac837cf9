#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# lost-interrupt.sh [SECONDS]: does an emulator lose interrupts of a CPU that leaves a
# nested guest? QEMU= is the one to try, of any version; by default that of make run.
# Prints how many were lost. Fails if there was one, or if nothing woke up any more.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

OUT=$BUILD/lost-interrupt
seconds=${1:-60}
tried=${QEMU:-}
# What provides the rest need not be what is tried.
unset QEMU
prepare plain
QEMU=${tried:-$QEMU}
VM_OPTIONS+=(--any-qemu)
JOB_ARGUMENTS=("$seconds")
status=0
boot lost-interrupt "$OUT" "$((seconds + 60))" >"$OUT.log" 2>&1 || status=$?
"$QEMU" --version | head -n 1
case $status in
0 | 1) tail -n 20 "$OUT/job.log" ;;
124) echo "the machine hangs: who sleeps goes on sleeping" ;;
*) die "the job failed (exit status $status)" "read $OUT.log" ;;
esac
exit "$status"
