#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What make install-tests lays out, in /kselftest, as on a machine that people use: nothing
# that others notice happens unless it is asked for, and what changes is put back.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

RUN=/kselftest/privmemfd/run
FILE_MAX=/proc/sys/fs/file-max
HUGE_PAGES=/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages

# states: of all memory blocks.
states() {
	cat /sys/devices/system/memory/memory*/state
}

has_no_module() {
	$RUN
	[ $? -eq 4 ]
}

# As Upstream's runner would, without a word of what is allowed.
spares_the_machine() {
	states >/tmp/before
	$RUN hwpoison_test migrate_test >/tmp/said || return 1
	cat /tmp/said
	grep -q 'SKIP poison is not allowed' /tmp/said && grep -q 'SKIP offline is not allowed' /tmp/said || return 1
	# Not one page has failed.
	grep -q '^HardwareCorrupted: *0 kB' /proc/meminfo && states | cmp - /tmp/before
}

does_what_it_may() {
	$RUN --offline migrate_test >/tmp/said || return 1
	cat /tmp/said
	! grep -q 'not allowed' /tmp/said && states | cmp - /tmp/before
}

# A test that is killed half-way.
puts_back() {
	block=$(grep -l Movable /sys/devices/system/memory/memory*/valid_zones | tail -n 1)
	cat >/kselftest/privmemfd/dies <<-DIES
		#!/bin/sh
		echo offline >${block%/valid_zones}/state
		echo 12345 >$FILE_MAX
		echo 3 >$HUGE_PAGES
		kill -9 \$\$
	DIES
	chmod +x /kselftest/privmemfd/dies
	states >/tmp/before
	limit=$(cat $FILE_MAX)
	huge_pages=$(cat $HUGE_PAGES)
	# That it fails is right: its lines are not to count.
	$RUN --offline dies >/tmp/said 2>&1 && return 1
	sed 's/^/# /' /tmp/said
	states | cmp - /tmp/before && [ "$(cat $FILE_MAX)" = "$limit" ] &&
		[ "$(cat $HUGE_PAGES)" = "$huge_pages" ] && grep Movable "$block"
}

unset PRIVMEMFD_MAY
suite "collection: skipped without the module" 10 has_no_module
suite "collection: load" 60 eval 'load_kvm /modules/kvm && insmod /modules/privmemfd.ko'
suite "collection: load hwpoison-inject" 10 insmod /modules/hwpoison-inject.ko
suite "collection: spares the machine" 200 spares_the_machine
suite "collection: does what it may" 200 does_what_it_may
suite "collection: puts back what a test has left" 20 puts_back
