#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# count.sh N plain|debug|stock act1|race|run: how often do machines die? N fresh boots of the
# demonstration's first act, of the whole race_test or of what make run shows; a line for
# each, then the row of the table in testing.rst. The logs of all that have not passed
# stay in build/count. Fails if one has not.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

usage="count.sh N plain|debug|stock act1|race|run"
runs=${1:?$usage} kernel=${2:?$usage} what=${3:?$usage}
case $what in
act1 | race) job=$what ;;
run) job=demo ;;
*) die "$what cannot be counted" "$usage" ;;
esac
OUT=$BUILD/count/$what-$kernel
LIMIT=1200
declare -A count=([passed]=0 [lost]=0 [triple]=0 [hang]=0 [other]=0)

# verdict STATUS OUT: how a machine has ended.
verdict() {
	if grep -qs 'Triple fault' "$2/cpu.log"; then
		echo triple
	elif grep -qs -e Shutdown -e ' rip: ffff' "$2/job.log"; then
		echo lost
	elif [ "$1" -eq 124 ] || grep -qs '^Bail out!' "$2/job.log" || grep -q '^error: the machine hangs' "$2.log"; then
		echo hang
	elif [ "$1" -eq 0 ] && "$TOP/tools/vm/kernel-reports" "$(kernel_log "$2")" >"$2.reports"; then
		echo passed
	else
		echo other
	fi
}

prepare "$kernel"
[ "$what" = race ] || demo_machine
mkdir -p "$OUT"
exec 9<"$OUT"
flock -n 9 || die "another count.sh counts $what on $kernel in this checkout" "wait for its end"
for ((run = 1; run <= runs; run++)); do
	out=$OUT/$run status=0 start=$SECONDS
	boot "$job" "$out" "$LIMIT" >"$out.log" 2>&1 || status=$?
	how=$(verdict "$status" "$out")
	count[$how]=$((count[$how] + 1))
	echo "$run: $how, exit status $status, $((SECONDS - start)) s"
	[ "$how" != passed ] || rm -rf "$out" "$out.log" "$out.reports"
done
echo "what   kernel  QEMU        runs  passed  lost vCPUs  triple faults  hangs  others  date"
printf '%-6s %-7s %-11s %-5s %-7s %-11s %-14s %-6s %-7s %s\n' "$what" "$kernel" \
	"$("$QEMU" --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')" "$runs" "${count[passed]}" "${count[lost]}" \
	"${count[triple]}" "${count[hang]}" "${count[other]}" "$(date +%F)"
[ "${count[passed]}" -eq "$runs" ]
