#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh [--debug|--coverage] [MIB [VCPUS [MOVES]]]: an emulated TDX host on which
# the kernel's own TDX code runs unmodified. First TDs on upstream's KVM, then TDs
# on movable memory that moves under them, also while calls of the TDX module fail,
# then a host that touches what it should not. --debug takes the kernel of `make
# test`, --coverage KVM's modules with lines that are counted. Counters go to
# build/tdx-host.json, or build/tdx-host-debug.json and so on.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../vm/prepare.sh
. "$(dirname "$0")/../vm/prepare.sh"

HERE=$TOP/tools/bochs-tdx
FLAVOUR=plain
NAME=tdx-host
case ${1:-} in
--debug) FLAVOUR=debug ;;&
--debug | --coverage)
	NAME=tdx-host-${1#--}
	shift
	;;
esac
mib=${1:-8}
vcpus=${2:-2}
moves=${3:-4}
CPUS=2
HOST_MEMORY=1024M
LIMIT=600
# Memory blocks that can go offline.
COMMAND_LINE=movablecore=512M
# Pages that have to move under TDs, if nothing smaller was asked for.
RELOCATIONS=$(($# ? 1 : 5000))

# build_module NAME: one of the small modules here, for this kernel.
build_module() {
	local out=$BUILD/$1-$FLAVOUR
	mkdir -p "$out"
	kmake "$KERNEL" M="$HERE/$1" MO="$out" modules >"$out.log" 2>&1 ||
		die "$1.ko does not build" "read $out.log"
}

prepare "$FLAVOUR"
STOCK_KVM=$KERNEL/arch/x86/kvm
more=()
if [ "$NAME" = tdx-host-coverage ]; then
	build_module count
	KVM_MODULES=$("$TOP/tools/build/kvm-modules.sh" "$KERNEL" "$(readlink -f "$CACHE/linux")" -- \
		KCFLAGS="-fprofile-arcs -ftest-coverage" \
		KBUILD_EXTRA_SYMBOLS="$BUILD/count-$FLAVOUR/Module.symvers") || exit 1
	# Without our series nothing is counted.
	STOCK_KVM=$KVM_MODULES
	more+=(--add "$BUILD/count-$FLAVOUR/count.ko:/modules/")
fi
bochs=$("$HERE/build.sh")
build_module stray

# on_host JOB ARGS...
on_host() {
	local out=$BUILD/$NAME-$1 job=$1
	shift
	say "$job on the emulated TDX host"
	"$HERE/boot.py" --bochs "$bochs" --kernel "$KERNEL" --memory "$HOST_MEMORY" --cpus "$CPUS" \
		--append "$COMMAND_LINE" --timeout "$LIMIT" --stock-kvm "$STOCK_KVM" --out "$out" \
		--add "$KVM_MODULES/kvm.ko:/modules/kvm/" --add "$KVM_MODULES/kvm-intel.ko:/modules/kvm/" \
		--add "$MODULE:/modules/" --add "$BUILD/stray-$FLAVOUR/stray.ko:/modules/" \
		--add "$BUILD/stray-$FLAVOUR/tdxfaults.ko:/modules/" "${more[@]}" \
		-- "$HERE/jobs/$job.sh" "$@"
}

status=0
on_host upstream "$mib" "$vcpus" || status=1
on_host privmemfd "$mib" "$vcpus" "$moves" || status=1
on_host faults "$mib" "$vcpus" || status=1
on_host harm || status=1
"$HERE/summary.py" "$BUILD/$NAME.json" "$RELOCATIONS" upstream="$BUILD/$NAME-upstream" \
	privmemfd="$BUILD/$NAME-privmemfd" faults="$BUILD/$NAME-faults" || status=1
# Not those of a host that does harm or loses TDs: KVM complains of it.
"$TOP/tools/vm/kernel-reports" --json "$BUILD/$NAME.json" \
	"$(kernel_log "$BUILD/$NAME-upstream")" "$(kernel_log "$BUILD/$NAME-privmemfd")" || status=1
say "counters: build/$NAME.json"
exit "$status"
