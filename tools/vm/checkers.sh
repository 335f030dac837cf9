#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# checkers.sh NAME...: our self-tests under what make test has no time for. Prints the rows
# of the tables in testing.rst; logs are in build/checkers. Fails if a test does or a kernel
# reports something.
#
#   starve          the debug kernel, 1 % of all allocations fail (PERCENT=)
#   starve-plain    the same on the plain kernel, in a fifth of the time
#   pagealloc       the debug kernel with debug_pagealloc=on page_poison=1
#   kcsan           a kernel of its own, which takes 20 minutes to build, once
#   gcc, rt, nonuma, cfi, modversions
#                   the same, and one machine of what any kernel has to be able to do
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

OUT=$BUILD/checkers
LIMIT=3600
names="starve, starve-plain, pagealloc, kcsan, gcc, rt, nonuma, cfi or modversions"

# settings NAME: the kernel, its command line and the jobs that run all self-tests.
settings() {
	jobs=(own tdx hostile)
	case $1 in
	starve) kernel=debug jobs=(starve) ;;
	starve-plain) kernel=plain jobs=(starve) ;;
	pagealloc) kernel=debug COMMAND_LINE+=" debug_pagealloc=on page_poison=1" ;;
	kcsan) kernel=$1 ;;
	# KVM refuses a real-time kernel whose TSC may stop, which QEMU says of its own.
	rt) COMMAND_LINE+=" setcpuid=constant_tsc" ;;&
	gcc | rt | nonuma | cfi | modversions) kernel=$1 jobs=(kernel) ;;
	*) die "no checker '$1'" "$names" ;;
	esac
}

# arguments JOB: what it wants to be told.
arguments() {
	case $1 in
	starve) echo "${PERCENT:-1}" ;;
	hostile) echo "${SEED:-1}" ;;
	esac
}

# check NAME: in a process of its own, for what it sets.
check() {
	local kernel jobs job status=0 failed=0 start=$SECONDS logs=() reports=()
	settings "$1"
	prepare "$kernel"
	for job in "${jobs[@]}"; do
		mapfile -t JOB_ARGUMENTS < <(arguments "$job")
		boot "$job" "$OUT/$1/$job" "$LIMIT" >"$OUT/$1-$job.log" 2>&1 || failed=1
		[ ! -f "$OUT/$1/$job/job.log" ] || logs+=("$OUT/$1/$job/job.log")
		reports+=("$(kernel_log "$OUT/$1/$job")")
	done
	"$TOP/tools/vm/ktap.py" "${logs[@]}" >"$OUT/$1.result" || status=1
	"$TOP/tools/vm/kernel-reports" "${reports[@]}" >"$OUT/$1.reports" || status=1
	printf '%-13s %-7s %-12s %s, %s, %s s\n' "$1" "$kernel" "$(date +%F)" "$(tail -n 1 "$OUT/$1.result")" \
		"$(tail -n 1 "$OUT/$1.reports")" $((SECONDS - start))
	[ $((status + failed)) -eq 0 ]
}

[ $# -gt 0 ] || die "which checker?" "$names"
status=0
for name; do
	(settings "$name")
	mkdir -p "$OUT/$name"
	(check "$name") || status=1
done
exit "$status"
