#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make stock: Debian's own kernel, as packaged, with the module and KVM with the series:
# the self-tests, Upstream's KVM selftests, TDs on the emulated TDX module, and the
# demonstration's first act. Leaves build/stock.json, says what was skipped and why; the exit status is the verdict. RELEASE= names the kernel as uname -r
# does; default: the newest of Linux 7.3 in Debian's backports.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

OUT=$BUILD/stock
LIMIT=2400

only_one
rm -rf "$OUT" "$BUILD/stock.json"
mkdir -p "$OUT"
prepare stock
upstream=$("$TOP/tools/build/selftests.sh" "$KDIR/source") || exit 1

# machine NAME MORE_FILES...: one machine, its job of that name, and its kernel log.
machine() {
	local name=$1 status=0
	shift
	say "booting Linux $(<"$KDIR/include/config/kernel.release"): $name"
	boot "$name" "$OUT/$name" "$LIMIT" "$@" || status=$?
	mkdir -p "$OUT/$name"
	touch "$OUT/$name/job.log"
	printf '>>> suite machine %s\n<<< suite machine %s: exit %s, 0 s\n' "$name" "$name" "$status" >"$OUT/$name.log"
}

machine stock "$upstream:/upstream" \
	"$STOCK/kvm.ko:/modules/stock-kvm/" "$STOCK/kvm-amd.ko:/modules/stock-kvm/"
machine tdx
demo_machine
machine act1

status=0
logs=()
for name in stock tdx act1; do
	logs+=("$(kernel_log "$OUT/$name")")
done
"$TOP/tools/vm/ktap.py" "$OUT"/{stock,tdx,act1}.log "$OUT"/{stock,tdx}/job.log >"$OUT/result" || status=1
say "skipped, and why"
sed -n 's/^ok [0-9]* \(.*\) # SKIP \(.*\)/  \2: \1/p' "$OUT"/{stock,tdx}/job.log | sort -u
cat "$OUT/result"
"$TOP/tools/vm/stock-json.py" "$KDIR/.config" "$KDIR/include/config/kernel.release" "$OUT/result" \
	"$OUT/act1/run.json" "$BUILD/stock.json" || status=1
"$TOP/tools/vm/kernel-reports" --json "$BUILD/stock.json" "${logs[@]}" || status=1
cat "$BUILD/stock.json"
if [ "$status" -eq 0 ]; then say "PASS (build/stock.json)"; else say "FAIL (build/stock.json, build/stock/)"; fi
exit "$status"
