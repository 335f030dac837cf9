#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# plain.sh SEED: what takes too long on the debug kernel, on the plain one: Upstream's
# long test with our memory and without the module, races at full speed, random
# operations against a model, many load cycles.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_for_random_operations() {
	insmod /modules/tdxemu.ko tags=256 && insmod /modules/tdhost.ko
}

unload_for_random_operations() {
	rmmod tdxemu && rmmod tdhost && rmmod copyfail && rmmod hwpoison_inject
}

# refuses_batch NUMBER
refuses_batch() {
	insmod /modules/privmemfd.ko "batch=$1" || return 0
	rmmod privmemfd
	return 1
}

# moves_by NUMBER: so many pages at a time. What comes after this needs another module,
# so this one goes also if a test fails.
moves_by() {
	insmod /modules/privmemfd.ko "batch=$1" || return 1
	PRIVMEMFD_BATCH=$1 /tests/move_test && /tests/migrate_test MOVE
	passed=$?
	rmmod privmemfd && [ $passed -eq 0 ]
}

# batches: any number of pages from 1 to 512 moves together, and no other is taken.
batches() {
	for batch in 0 513 -1 many; do
		refuses_batch "$batch" || return 1
	done
	for batch in 1 33 512; do
		moves_by "$batch" || return 1
	done
}

suite "plain: demo_test" 100 /tests/demo_test
suite "plain: load KVM" 60 load_kvm /modules/kvm
upstream_long "on plain, without the module"
suite "plain: sizes of a batch" 120 batches
suite "plain: load, serving all" 60 insmod /modules/privmemfd.ko serve_all=1
upstream_long "on plain, on our memory"
suite "plain: unload" 60 rmmod privmemfd
suite "plain: load" 60 insmod /modules/privmemfd.ko
suite "plain: load copyfail" 10 insmod /modules/copyfail.ko
suite "plain: load hwpoison-inject" 10 insmod /modules/hwpoison-inject.ko
tool_tests plain
suite "plain: race_test" 400 /tests/race_test
suite "plain: load for random operations" 60 load_for_random_operations
suite "plain: 10,000 random operations" 600 /tests/privmemfd-soak model --ops 10000 --seed "$1"
suite "plain: unload what was loaded for them" 60 unload_for_random_operations
suite "plain: unload again" 60 rmmod privmemfd
suite "plain: 100 load and unload cycles" 300 load_cycles 100
suite "plain: unload KVM" 60 unload_kvm
