#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make run: the live demonstration. Leaves build/run.json; the exit status is
# the verdict. It is shown on Debian's own kernel, which nobody has to build, where that
# can be had, else on one that is built (KERNEL=stock, KERNEL=plain). MIB= and VCPUS= are
# the first guest's, NUMA= the machine's nodes.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

# flavour: which kernel to show it on.
flavour() {
	local why
	if [ -n "${KERNEL:-}" ]; then
		echo "$KERNEL"
	elif [ -n "${KSRC:-}" ]; then
		echo plain
	elif why=$("$TOP/tools/build/stock-kdir.sh" --possible 2>&1); then
		echo stock
	else
		say "no kernel of Debian's to show it on, so one is built: $(sed -n 's/^error: //p' <<<"$why" | tail -n 1)"
		echo plain
	fi
}

rm -f "$BUILD/run.json"
prepare "$(flavour)"
demo_machine
nodes 2
if [ -n "${MIB:-}" ]; then
	whole MIB "$MIB" 64 512 "more than 512 MiB of a guest find no place beside what fills the nodes"
	JOB_ARGUMENTS+=(--mib "$MIB")
fi
if [ -n "${VCPUS:-}" ]; then
	whole VCPUS "$VCPUS" 1 16 "the guest of the demonstration has no more"
	JOB_ARGUMENTS+=(--vcpus "$VCPUS")
fi
say "booting Linux $(<"$KDIR/include/config/kernel.release") in the VM"
status=0
boot demo "$BUILD/run" 900 || status=$?
[ -f "$BUILD/run/run.json" ] ||
	die "the demonstration ended without a result (exit status $status)" \
		"read its output above and $(kernel_log "$BUILD/run")"
cp "$BUILD/run/run.json" "$BUILD/run.json"
"$TOP/tools/vm/kernel-reports" --json "$BUILD/run.json" "$(kernel_log "$BUILD/run")" || {
	[ "$status" -ne 0 ] || status=1
}
cat "$BUILD/run.json"
if [ "$status" -eq 0 ]; then
	say "PASS: every byte kept, no kernel report (build/run.json)"
else
	say "FAIL: exit status $status (build/run.json, build/run/)"
fi
exit "$status"
