#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh [--debug|--coverage] [MIB [VCPUS [MOVES]]]: an emulated TDX host on which
# the kernel's own TDX code runs unmodified. First TDs on upstream's KVM, then TDs
# on movable memory that moves under them, with VCPUS (2) and with one, also while
# calls of the TDX module fail, then a host that touches what it should not. --debug
# takes the kernel of `make test`, --coverage KVM's modules with lines that are
# counted. Counters go to build/tdx-host.json, or build/tdx-host-debug.json and so on.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../vm/prepare.sh
. "$(dirname "$0")/../vm/prepare.sh"

# shellcheck source-path=SCRIPTDIR source=host.sh
. "$(dirname "$0")/host.sh"

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
LIMIT=600
[ "$FLAVOUR" = plain ] || LIMIT=2400
# Pages that have to move under TDs, if nothing smaller was asked for.
RELOCATIONS=$(($# ? 1 : 5000))

prepare "$FLAVOUR"
STOCK_KVM=$KERNEL/arch/x86/kvm
more=()
if [ "$NAME" = tdx-host-coverage ]; then
	# With the call of the architecture that only a KVM for SEV-SNP has; TDX does nothing there.
	KVM_MODULES=$("$TOP/tools/build/kvm-modules.sh" "$KERNEL" "$(readlink -f "$CACHE/linux")" -- \
		KCFLAGS="-fprofile-arcs -ftest-coverage -DCONFIG_HAVE_KVM_ARCH_GMEM_INVALIDATE=1" \
		KBUILD_EXTRA_SYMBOLS="$TEST_MODULES/count.build/Module.symvers") || exit 1
	# Without our series nothing is counted.
	STOCK_KVM=$KVM_MODULES
	more+=(--add "$TEST_MODULES/count.ko:/modules/")
fi
bochs=$("$HERE/build.sh")

# on_host NAME JOB ARGS...
on_host() {
	local out=$BUILD/$NAME-$1 name=$1 job=$2
	shift 2
	say "$name on the emulated TDX host"
	tdx_host "$bochs" "$out" "$LIMIT" --stock-kvm "$STOCK_KVM" --add "$TEST_MODULES/stray.ko:/modules/" \
		--add "$TEST_MODULES/tdxfaults.ko:/modules/" --add "$TEST_MODULES/tdxwitness.ko:/modules/" \
		"${more[@]}" -- "$job" "$@" || status=1
}

status=0
on_host upstream upstream "$mib" "$vcpus"
on_host privmemfd privmemfd privmemfd "$mib" "$vcpus" "$moves"
on_host one-vcpu privmemfd privmemfd 4 1 2
on_host faults faults "$mib" "$vcpus"
on_host harm harm
runs=()
for name in upstream privmemfd one-vcpu faults; do
	runs+=("$name=$BUILD/$NAME-$name")
done
"$HERE/summary.py" "$BUILD/$NAME.json" "$RELOCATIONS" "${runs[@]}" || status=1
# KVM complains of a page that it cannot have without a reason, of one that is another
# than it thought, and of what a host does that does harm, which is not looked at.
"$TOP/tools/vm/kernel-reports" --quiet --ignore 'tdx_sept_(remove_leaf|set_private)_spte|tdp_mmu_find_mirror_leaf' \
	"$(kernel_log "$BUILD/$NAME-faults")" || status=1
"$TOP/tools/vm/kernel-reports" --json "$BUILD/$NAME.json" "$(kernel_log "$BUILD/$NAME-upstream")" \
	"$(kernel_log "$BUILD/$NAME-privmemfd")" "$(kernel_log "$BUILD/$NAME-one-vcpu")" || status=1
say "counters: build/$NAME.json"
exit "$status"
