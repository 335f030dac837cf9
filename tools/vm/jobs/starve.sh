#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# starve.sh PERCENT: our tests while so many allocations fail, first of kernel objects,
# then of pages. Cases may fail; wrong content, a report of the kernel, a leak or a
# module that stays loaded may not be.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

DEBUG=/sys/kernel/debug

# arm failslab|fail_page_alloc PERCENT: for tasks that have asked for it.
arm() {
	for setting in task-filter=Y "probability=$2" interval=1 times=-1 verbose=0 ignore-gfp-wait=N \
		ignore-gfp-highmem=N min-order=0; do
		file=$DEBUG/$1/${setting%%=*}
		[ ! -e "$file" ] || echo "${setting#*=}" >"$file" || return 1
	done
}

# starved WHAT PERCENT PROGRAM: its own cases that starve set these files anew.
starved() {
	arm "$1" "$2" || return 1
	# shellcheck disable=SC2016 # for the other shell
	timeout -s KILL 600 sh -c 'echo 1 >/proc/self/make-it-fail && exec "$0"' "$3" >/tmp/starved 2>&1
	echo 0 >"$DEBUG/$1/probability"
	echo "$(grep -c '^ok ' /tmp/starved) passed, $(grep -c '^not ok ' /tmp/starved) failed for want of memory"
	! grep -E 'wrong content|mismatch(es)?: [1-9]|wrote to a TD|hangs$' /tmp/starved
}

nothing_is_bound() {
	[ "$(counter slots_bound)" = "$(counter slots_unbound)" ]
}

suite "starve: load" 60 eval 'load_kvm /modules/kvm && insmod /modules/privmemfd.ko &&
	insmod /modules/copyfail.ko && insmod /modules/tdxemu.ko tags=256 && insmod /modules/tdhost.ko'
for what in failslab fail_page_alloc; do
	for name in abi file errno privmemctl migrate race kvm hwpoison tdx tdx_race; do
		suite "starve: $what, ${name}_test" 700 starved "$what" "$1" "/tests/${name}_test"
	done
done
suite "starve: nothing is left bound" 5 nothing_is_bound
suite "starve: unload" 60 eval 'rmmod tdxemu && rmmod tdhost && rmmod copyfail && rmmod privmemfd && unload_kvm'
suite "starve: kmemleak" 200 no_leaks
