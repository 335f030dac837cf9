#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# coverage.sh [MIB [VCPUS [MOVES]]]: the runs of run.sh with KVM modules that count
# which of their lines are executed. Prints how much of KVM's tdx.c and of what
# patches/ adds that was; the details go to build/tdx-coverage.json. A line of
# patches/ must be executed, or unreached.txt must say why it is not.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../build/lib.sh
. "$(dirname "$0")/../build/lib.sh"

HERE=$TOP/tools/bochs-tdx
OUT=$TOP/build/tdx-host-coverage

rm -rf "$OUT"-*
status=0
"$HERE/run.sh" --coverage "$@" || status=1
mapfile -t found < <(find "$TOP/build" -path "$OUT-*/count.gz" -printf '%h\n' | sort)
[ ${#found[@]} -gt 0 ] || die "no machine has brought back what it counted" "read the messages above"
"$HERE/coverage.py" "$TOP/build/tdx-coverage.json" "$(readlink -f "$CACHE/linux")" \
	"$HERE/unreached.txt" "${found[@]}" || status=1
say "details: build/tdx-coverage.json"
exit "$status"
