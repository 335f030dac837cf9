#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# td.sh: `make td`. Debian's QEMU, firmware and kernel, unmodified, as a TD on the emulated
# TDX host; its memory is a privmemfd and moves while it runs. Leaves build/td.json; the exit
# status is the verdict. In the environment: VCPUS (1; 2 do not get
# through the boot, README.md), MIB (256), RELOCATIONS (200000) that
# have to happen, APPEND for the TD's kernel command line; TD_KERNEL, TD_INITRD and
# HOST_KERNEL for your own; TD_SHELL=1 for a shell in the TD, where nothing moves.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../vm/prepare.sh
. "$(dirname "$0")/../vm/prepare.sh"
# shellcheck source-path=SCRIPTDIR source=host.sh
. "$(dirname "$0")/host.sh"

HERE=$TOP/tools/bochs-tdx
OUT=$BUILD/td
vcpus=${VCPUS:-1}
mib=${MIB:-256}
relocations=${RELOCATIONS:-200000}
LIMIT=1500

prepare plain
bochs=$("$HERE/build.sh")
linux_td_parts

rm -f "$BUILD/td.json"
options=(--vcpus "$vcpus" --mib "$mib" --target "$relocations" --append "td.mib=$((mib / 8)) ${APPEND:-}")
more=()
if [ -n "${TD_SHELL:-}" ]; then
	options+=(--shell)
	more=(--terminal)
	LIMIT=86400
fi
say "an unmodified Linux as a TD: $vcpus vCPU(s), $mib MiB"
status=0
linux_td "$bochs" "$OUT" "$LIMIT" "$vcpus" "${more[@]}" -- "${options[@]}" || status=$?
[ -z "${TD_SHELL:-}" ] || exit "$status"
[ -f "$OUT/host.json" ] ||
	die "the run ended without a result (exit status $status)" "read its output above, $OUT/guest.log and $(kernel_log "$OUT")"
"$HERE/td-json.py" "$OUT" "$PARTS" "$BUILD/td.json" "$relocations" || status=1
if [ "$status" -eq 0 ]; then
	say "PASS: a Linux TD has kept every byte (build/td.json)"
else
	say "FAIL: exit status $status (build/td.json, build/td/)"
fi
exit "$status"
