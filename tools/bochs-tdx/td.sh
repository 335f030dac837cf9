#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# td.sh: `make td`. Debian's QEMU, firmware and kernel, unmodified, as a TD on the emulated
# TDX host; its memory is a privmemfd and moves while it runs. Leaves build/td.json; the exit
# status is the verdict.
#
#   --kernel IMAGE      the TD's kernel (TD_KERNEL)
#   --modules TREE      its modules, as in /lib/modules/RELEASE (TD_MODULES)
#   --initrd ARCHIVE    its initial archive instead of ours (TD_INITRD): its output is shown, and
#                       its memory moves until it ends, by itself within 400 s (panic=-1 is set)
#   --append TEXT       more of its command line (APPEND)
#   --vmm qemu|alioth   the program that runs the TD (VMM)
#   --host-kernel TREE  a built kernel for the host (HOST_KERNEL); its source is KSRC
#   --shell             a shell in the TD, where nothing moves (TD_SHELL); its exit status
#                       is that of td.sh
#
# Also in the environment: VCPUS (1), MIB (256), RELOCATIONS (200000) that have to happen.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../vm/prepare.sh
. "$(dirname "$0")/../vm/prepare.sh"
# shellcheck source-path=SCRIPTDIR source=host.sh
. "$(dirname "$0")/host.sh"

HERE=$TOP/tools/bochs-tdx
OUT=$BUILD/td
while [ $# -gt 0 ]; do
	case $1 in
	--shell) TD_SHELL=1 && shift && continue ;;
	--kernel | --modules | --initrd | --append | --vmm | --host-kernel) ;;
	*) die "unknown option $1" "--kernel, --modules, --initrd, --append, --vmm, --host-kernel or --shell" ;;
	esac
	[ $# -ge 2 ] || die "$1 needs a value"
	case $1 in
	--kernel) TD_KERNEL=$2 ;;
	--modules) TD_MODULES=$2 ;;
	--initrd) TD_INITRD=$2 ;;
	--append) APPEND=$2 ;;
	--vmm) VMM=$2 ;;
	--host-kernel) HOST_KERNEL=$2 ;;
	esac
	shift 2
done
for file in "${TD_KERNEL:-/}" "${TD_MODULES:-/}" "${TD_INITRD:-/}" "${HOST_KERNEL:-/}"; do
	[ -e "$file" ] || die "there is no $file" "give the path of a kernel image, an archive or a tree"
done
vcpus=${VCPUS:-1}
mib=${MIB:-256}
relocations=${RELOCATIONS:-200000}
whole MIB "$mib" 128 1024 "the kernel of a TD takes 64 MiB for swiotlb alone, and the emulated host has 2048 MiB, half of it movable"
whole RELOCATIONS "$relocations" 1 9999999 "so many have to happen"
LIMIT=1500

# Its source is not that of the kernels that are built here.
host_source=${KSRC:-}
[ -z "${HOST_KERNEL:-}" ] || unset KSRC
prepare plain
[ -z "${HOST_KERNEL:-}" ] || host_kernel "$HOST_KERNEL" "$host_source"
whole VCPUS "$vcpus" 1 2 "the host has a CPU for each, and more than two have not been tried"
bochs=$("$HERE/build.sh")
linux_td_parts
# For the emulated host.
more=()
case ${VMM:=qemu} in
qemu) ;;
alioth)
	[ -z "${TD_SHELL:-}" ] || die "there is no shell with VMM=alioth: no kernel gets to run" "leave VMM= or SHELL= away"
	alioth=$("$HERE/alioth.sh")
	more+=(--add "$alioth:/td/")
	last=firmware
	say "OVMF does not know this VMM's host bridge: it gets no further than the firmware"
	;;
*) die "VMM=$VMM: there is no such one here" "qemu or alioth" ;;
esac

rm -f "$BUILD/td.json"
options=(--vmm "$VMM" --last "${last:-faults}" --vcpus "$vcpus" --mib "$mib" --target "$relocations" --append "td.mib=$((mib / 8)) ${APPEND:-}")
if [ -n "${TD_INITRD:-}" ]; then
	# How much moves is its business.
	options+=(--foreign)
	relocations=${RELOCATIONS:-0}
fi
if [ -n "${TD_SHELL:-}" ]; then
	options+=(--shell)
	more+=(--terminal)
	LIMIT=86400
fi
say "an unmodified Linux as a TD of $VMM: $vcpus vCPU(s), $mib MiB"
status=0
linux_td "$bochs" "$OUT" "$LIMIT" "$vcpus" "${more[@]}" -- "${options[@]}" || status=$?
[ -f "$OUT/host.json" ] ||
	die "the run ended without a result (exit status $status)" "read its output above, $OUT/guest.log and $(kernel_log "$OUT")"
if [ -n "${TD_SHELL:-}" ]; then
	"$HERE/td-json.py" "$OUT" "$PARTS" "$OUT/shell.json" 0 ||
		die "what the TD had has not come back" "read $OUT/shell.json"
	exit "$status"
fi
"$HERE/td-json.py" "$OUT" "$PARTS" "$BUILD/td.json" "$relocations" || status=1
if [ "$status" -ne 0 ]; then
	say "FAIL: exit status $status (build/td.json, build/td/)"
elif [ -n "${last:-}" ]; then
	say "PASS: the firmware of a TD ran while its memory moved, all of which has come back (build/td.json)"
elif [ -n "${TD_INITRD:-}" ]; then
	say "PASS: the TD has ended by itself, and all its memory has come back; of its content nobody says anything (build/td.json)"
else
	say "PASS: a Linux TD has kept every byte (build/td.json)"
fi
exit "$status"
