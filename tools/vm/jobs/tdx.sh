#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# TDs whose pages move, on the emulated TDX module: our tests, then what of the
# modules depends on the order of loading, then leaks. /modules/tdxemu.ko and
# /modules/tdhost.ko are the modules. Leaves /out/fault-matrix.txt.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

EMULATOR=/sys/kernel/debug/tdxemu

load() {
	insmod /modules/privmemfd.ko && insmod /modules/tdxemu.ko && insmod /modules/tdhost.ko
}

# load_with_tags: they find what the host writes to a TD's page; for 8 GiB.
load_with_tags() {
	insmod /modules/privmemfd.ko && insmod /modules/tdxemu.ko tags=256 && insmod /modules/tdhost.ko
}

# unload: the TDX module goes first, so it gives back what it had.
unload() {
	rmmod tdxemu && rmmod tdhost && rmmod privmemfd
}

works() {
	/tests/tdx_test 'a TD runs'
}

traces() {
	traced /tests/tdx_test 'MOVE keeps' &&
		grep -m 1 'relocate_end: .* cause=request backend=tdx result=0 refused=none ns=[1-9]' "$TRACING/trace"
}

# no_violation: the host has done nothing that it must not.
no_violation() {
	cat $EMULATOR/violations
	grep -q '^stray_writes 0$' $EMULATOR/violations && grep -q '^dead 0$' $EMULATOR/violations
}

# Without a TDX module there is no harness.
refuses_without_module() {
	insmod /modules/privmemfd.ko || return 1
	insmod /modules/tdhost.ko
	refused=$?
	rmmod privmemfd && [ $refused -ne 0 ] && [ ! -e /dev/tdhost ]
}

# loaded COMMAND...: run it with all modules loaded. What comes after this loads them anew, so
# those that are there go also if it fails.
loaded() {
	load && "$@"
	passed=$?
	for name in tdxemu tdhost privmemfd; do
		! grep -q "^$name " /proc/modules || rmmod "$name" || return 1
	done
	[ $passed -eq 0 ]
}

# The TDX module stays up while the harness comes and goes.
reloads() {
	for _ in 1 2 3; do
		works && rmmod tdhost && insmod /modules/tdhost.ko || return 1
	done
	works && dmesg | grep -q 'tdhost: .* of PAMT stay with the TDX module'
}

# It is reset, or replaced, and has to be brought up anew.
resets() {
	works && echo reset >$EMULATOR/state && rmmod tdhost && insmod /modules/tdhost.ko && works
}

cycles() {
	cycle=0
	while [ "$cycle" -lt "$1" ]; do
		cycle=$((cycle + 1))
		load || break
		unload || break
	done
	echo "$cycle of $1 cycles"
	! grep -q '^tdhost ' /proc/modules && [ "$cycle" -eq "$1" ]
}

suite "TDX: load KVM" 60 load_kvm /modules/kvm
suite "TDX: no TDX module" 10 refuses_without_module
suite "TDX: load" 60 load
suite "TDX: without integrity tags" 60 works
suite "TDX: trace events" 60 traces
suite "TDX: unload" 60 unload
suite "TDX: load with integrity tags" 60 load_with_tags
# The last of them makes the host lose pages, and their memory blocks stay online.
for name in tdx tdx_race tdx_tool tdx_fault; do
	FAULT_MATRIX=/out/fault-matrix.txt suite "${name}_test with tags" 900 "/tests/${name}_test"
done
suite "TDX: no violation with tags" 5 no_violation
suite "TDX: unload with tags" 60 unload
suite "TDX: the harness comes and goes" 60 loaded reloads
suite "TDX: the TDX module is reset" 60 loaded resets
suite "TDX: 10 load and unload cycles" 120 cycles 10
suite "TDX: kmemleak" 200 no_leaks
