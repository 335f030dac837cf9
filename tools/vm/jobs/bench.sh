#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# bench.sh [large | ARGUMENTS...]: make bench: what a move costs, beside the move of an
# ordinary memfd's page, and what a vCPU waits. The machine's clock counts instructions.
# `large`: what takes a machine with more memory. With other arguments: that measurement.
# /base has the modules of another revision, if there is one to compare with: they are
# measured first, by the same program. Figures are added to those of another machine in
# /earlier.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

WHAT=populate,request,mapped,core,growth,threads,tdx,held
BATCHES="1 8 32 128 512"
if [ "${1:-}" = large ]; then
	WHAT=sizes BATCHES=
	shift
fi

# load DIR [PARAMETERS]: the modules there. KVM stays.
load() {
	modules=$1
	shift
	insmod "$modules/privmemfd.ko" "$@" && insmod "$modules/tdxemu.ko" && insmod "$modules/tdhost.ko"
}

unload() {
	rmmod tdhost && rmmod tdxemu && rmmod privmemfd
}

# measure FILE ARGUMENTS...
measure() {
	json=/out/$1
	shift
	/tests/privmemfd-bench --instructions --json "$json" --add "$@"
}

# Until the kernel trusts its clock: before that, timers come with the tick.
sleep 2

[ ! -d /earlier ] || cp /earlier/*.json /out/ || exit 125
if [ -d /base ]; then
	echo "--- the revision to compare with"
	load_kvm /base/kvm && load /base || exit 125
	measure base.json --only "$WHAT" || exit 1
	unload && unload_kvm || exit 125
	echo "--- this one"
fi

load_kvm /modules/kvm && load /modules || exit 125
if [ $# -gt 0 ]; then
	measure bench.json "$@"
	exit
fi
measure bench.json --only "$WHAT" || exit 1
for batch in $BATCHES; do
	unload && load /modules "batch=$batch" || exit 125
	measure bench.json --pauses "$batch" || exit 1
done
