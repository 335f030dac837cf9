#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# starve.sh PERCENT: our tests while so many allocations fail, first of kernel objects,
# then of pages. Cases may fail; wrong content, a test that hangs, a report of the
# kernel, a leak or a module that stays loaded may not be.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

# starved WHAT PERCENT PROGRAM: a program that runs no case tells nothing.
starved() {
	STARVE=$1:$2 timeout -s KILL 900 "$3" >/tmp/starved 2>&1
	ended=$?
	passed=$(grep -c '^ok ' /tmp/starved)
	failed=$(grep -c '^not ok ' /tmp/starved)
	echo "$passed cases passed, $failed failed for want of memory"
	# 137: killed, so it hung.
	[ "$ended" -ne 137 ] && [ $((passed + failed)) -gt 0 ] &&
		! grep -E 'wrong content|mismatch(es)?: [1-9]|wrote to a TD|hangs$' /tmp/starved
}

nothing_is_bound() {
	[ "$(counter slots_bound)" = "$(counter slots_unbound)" ]
}

load() {
	load_kvm /modules/kvm && insmod /modules/privmemfd.ko || return 1
	for helper in copyfail markfailed hwpoison-inject memscan; do
		insmod "/modules/$helper.ko" || return 1
	done
	insmod /modules/tdxemu.ko tags=256 && insmod /modules/tdhost.ko
}

unload() {
	rmmod tdxemu tdhost copyfail markfailed hwpoison_inject memscan && rmmod privmemfd && unload_kvm
}

suite "starve: load" 60 load
# Without, every case would fail, and for another reason.
[ -c /dev/kvm ] && [ -c /dev/tdhost ] && [ -d "$COUNTERS" ] || exit 125
for what in failslab fail_page_alloc; do
	for name in abi file errno move kcore privmemctl migrate race kvm hwpoison tdx tdx_race tdx_fault privacy; do
		suite "starve: $what, ${name}_test" 900 starved "$what" "$1" "/tests/${name}_test"
	done
done
suite "starve: nothing is left bound" 5 nothing_is_bound
suite "starve: unload" 60 unload
suite "starve: kmemleak" 200 no_leaks
