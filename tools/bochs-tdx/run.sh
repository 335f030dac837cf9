#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh [MIB [VCPUS [MOVES]]]: an emulated TDX host on which the kernel's own
# TDX code runs unmodified. First TDs on upstream's KVM, then TDs on movable
# memory that moves under them, also while calls of the TDX module fail, then a
# host that touches what it should not.
# Counters go to build/tdx-host.json.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../vm/prepare.sh
. "$(dirname "$0")/../vm/prepare.sh"

HERE=$TOP/tools/bochs-tdx
mib=${1:-8}
vcpus=${2:-2}
moves=${3:-4}
CPUS=2
HOST_MEMORY=1024M
# Memory blocks that can go offline.
COMMAND_LINE=movablecore=512M
# Pages that have to move under TDs, if nothing smaller was asked for.
RELOCATIONS=$(($# ? 1 : 5000))

prepare plain
bochs=$("$HERE/build.sh")
mkdir -p "$BUILD/stray"
kmake "$KERNEL" M="$HERE/stray" MO="$BUILD/stray" modules >"$BUILD/stray.log" 2>&1 ||
	die "stray.ko does not build" "read $BUILD/stray.log"

# on_host JOB ARGS...
on_host() {
	local out=$BUILD/tdx-host-$1 job=$1
	shift
	say "$job on the emulated TDX host"
	"$HERE/boot.py" --bochs "$bochs" --kernel "$KERNEL" --memory "$HOST_MEMORY" --cpus "$CPUS" \
		--append "$COMMAND_LINE" --timeout 600 --out "$out" \
		--add "$KVM_MODULES/kvm.ko:/modules/kvm/" --add "$KVM_MODULES/kvm-intel.ko:/modules/kvm/" \
		--add "$MODULE:/modules/" --add "$BUILD/stray/stray.ko:/modules/" \
		--add "$BUILD/stray/tdxfaults.ko:/modules/" \
		-- "$HERE/jobs/$job.sh" "$@"
}

status=0
on_host upstream "$mib" "$vcpus" || status=1
on_host privmemfd "$mib" "$vcpus" "$moves" || status=1
on_host faults "$mib" "$vcpus" || status=1
on_host harm || status=1
"$HERE/summary.py" "$BUILD/tdx-host.json" "$RELOCATIONS" upstream="$BUILD/tdx-host-upstream" \
	privmemfd="$BUILD/tdx-host-privmemfd" faults="$BUILD/tdx-host-faults" || status=1
# Not those of a host that does harm or loses TDs: KVM complains of it.
"$TOP/tools/vm/kernel-reports" --json "$BUILD/tdx-host.json" \
	"$(kernel_log "$BUILD/tdx-host-upstream")" "$(kernel_log "$BUILD/tdx-host-privmemfd")" || status=1
say "counters: build/tdx-host.json"
exit "$status"
