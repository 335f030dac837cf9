#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# bisect-series.sh [N...]: show that the KVM series bisects. For each number of
# patches N, by default all from 0 to the whole series: build KVM's modules with
# the first N patches, without a warning at W=1, and run Upstream's selftests with
# them in a VM of its own, without our module. 0 is the kernel as it is. Ends with
# a table, and fails if anything in it does; keeps logs in build/bisect/N.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

OUT=$TOP/build/bisect
LIMIT=1500

"$TOP/tools/build/provision.sh" || exit 1
QEMU=$(qemu_bin)
export QEMU
source=$(readlink -f "$CACHE/linux")
kernel=$("$TOP/tools/build/kernel.sh" plain) || exit 1
upstream=$("$TOP/tools/build/selftests.sh" "$source") || exit 1
mapfile -t names < <(sed 's/[[:space:]]*#.*//; /^$/d' "$TOP/patches/series")
if [ $# -eq 0 ]; then
	mapfile -t steps < <(seq 0 ${#names[@]})
else
	steps=("$@")
fi

# modules N OUT: the folder of the modules with the first N patches.
modules() {
	local built
	if [ "$1" -eq 0 ]; then
		echo "$kernel/arch/x86/kvm"
		return
	fi
	built=$("$TOP/tools/build/kvm-modules.sh" --only "$1" "$kernel" "$source" -- W=1) || return 1
	! grep -i 'warning:' "$built/build.log" >&2 || return 1
	echo "$built"
}

# run N: one step; leaves what ktap.py says in OUT/N/result.
run() {
	local out=$OUT/$1 folder file add=()
	rm -rf "$out"
	mkdir -p "$out"
	if ! folder=$(modules "$1"); then
		echo "FAIL build" >"$out/result"
		return
	fi
	for file in kvm.ko kvm-amd.ko; do
		add+=(--add "$folder/$file:/modules/kvm/")
	done
	[ ! -f "$kernel/virt/lib/irqbypass.ko" ] || add+=(--add "$kernel/virt/lib/irqbypass.ko:/modules/")
	"$TOP/tools/vm/vm.py" --kernel "$kernel" --memory 4G --timeout "$LIMIT" --out "$out" \
		"${add[@]}" --add "$upstream:/upstream" -- "$TOP/tools/vm/jobs/series.sh" || true
	touch "$out/job.log"
	"$TOP/tools/vm/ktap.py" "$out/job.log" | sed '$d' >"$out/result" || true
	if "$TOP/tools/vm/kernel-reports" "$out/dmesg.log" >"$out/reports" 2>&1; then
		echo "ok   kernel log: " >>"$out/result"
	else
		echo "FAIL kernel log: " >>"$out/result"
	fi
}

# cell N PATTERN: ok, skip, FAIL or, if the step did not get there, a dash.
cell() {
	local words
	words=$(awk -v want="$2" '/^(ok|skip|FAIL) / && index($0, want) { print $1 }' "$OUT/$1/result" | sort -u)
	case $words in
	ok | skip | FAIL) echo "$words" ;;
	'') echo - ;;
	*) echo FAIL ;;
	esac
}

columns=(
	"load:load:" "memslots:set_memory_region_test" "gmem:guest_memfd_test" "prefault:pre_fault_memory_test"
	"exits:private_mem_kvm_exits_test" "convert:private_mem_conversions_test" "unload:unload:" "log:kernel log:"
)

for n in "${steps[@]}"; do
	say "$n patches"
	run "$n"
done

status=0
printf '\n%-3s' N
printf ' %-8s' "${columns[@]%%:*}"
printf ' last patch\n'
for n in "${steps[@]}"; do
	printf '%-3s' "$n"
	for column in "${columns[@]}"; do
		result=$(cell "$n" " ${column#*:}")
		[ "$result" = ok ] || status=1
		printf ' %-8s' "$result"
	done
	if [ "$n" -eq 0 ]; then echo " (none)"; else echo " ${names[n - 1]%.patch}"; fi
done
exit "$status"
