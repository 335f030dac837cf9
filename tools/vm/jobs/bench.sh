#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# bench.sh [ARGUMENTS...]: make bench: what a move costs, beside the move of an ordinary
# memfd's page, and what a vCPU waits. The machine's clock counts instructions. With
# arguments: that measurement. /base has the modules of another revision, if there is one
# to compare with: they are measured first, by the same program.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

COSTS=populate,request,mapped,core,growth,threads,tdx

# load DIR [PARAMETERS]: the modules there. KVM stays.
load() {
	modules=$1
	shift
	insmod "$modules/privmemfd.ko" "$@" && insmod "$modules/tdxemu.ko" && insmod "$modules/tdhost.ko"
}

unload() {
	rmmod tdhost && rmmod tdxemu && rmmod privmemfd
}

measure() {
	/tests/privmemfd-bench --instructions "$@"
}

# Until the kernel trusts its clock: before that, timers come with the tick.
sleep 2

if [ -d /base ]; then
	echo "--- the revision to compare with"
	load_kvm /base/kvm && load /base || exit 125
	measure --json /out/base.json --only "$COSTS" || exit 1
	unload && unload_kvm || exit 125
	echo "--- this one"
fi

load_kvm /modules/kvm && load /modules || exit 125
if [ $# -gt 0 ]; then
	measure --json /out/bench.json "$@"
	exit
fi
measure --json /out/bench.json --only "$COSTS,held" || exit 1
for batch in 1 8 32 128 512; do
	unload && load /modules "batch=$batch" || exit 125
	measure --json /out/bench.json --add-pauses "$batch" || exit 1
done
