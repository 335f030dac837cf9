#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Our own tests on KVM with our patches, then load/unload cycles, then leaks.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

# makes_a_file PID BEFORE: waits until there have been more files than before the process began.
makes_a_file() {
	while [ "$(counter files_created)" -le "$2" ]; do
		kill -0 "$1" || return 1
		sleep 1
	done
}

# A file keeps the module loaded, and tells so.
unload_is_refused() {
	before=$(counter files_created)
	/tests/privmemctl hold --size 4M &
	holder=$!
	makes_a_file $holder "$before" || return 1
	rmmod privmemfd
	refused=$?
	kill $holder
	wait $holder
	[ $refused -ne 0 ] && grep -q '^privmemfd ' /proc/modules
}

# So does a counter that somebody reads.
unload_with_a_counter_open() {
	exec 3<"$COUNTERS/files_created"
	rmmod privmemfd
	refused=$?
	exec 3<&-
	[ $refused -ne 0 ] && grep -q '^privmemfd ' /proc/modules
}

# What is left of a closed file may still be looked at.
unload_under_a_path() {
	before=$(counter files_created)
	/tests/file_test --role outlive-the-module &
	looker=$!
	makes_a_file $looker "$before" || return 1
	# It closes the file at once, then waits for this, but not for ever.
	until rmmod privmemfd; do
		kill -0 $looker || break
		sleep 1
	done
	wait $looker
}

move_and_fail() {
	/tests/migrate_test 'MOVE of a part' && /tests/errno_test 'MOVE of pages whose memory fails'
}

trace_events() {
	traced move_and_fail || return 1
	for pattern in 'create: ino=.* size=.* flags=0x1 node=-1' 'bind: ino=.* index=0 pages=' \
		'unbind: ino=' 'relocate_begin: .* pfn=0x.* to=0x.* cause=request' \
		'relocate_end: .* cause=request backend=software result=0 refused=none ns=[1-9]' \
		'relocate_end: .* cause=request backend=software result=-133 refused=poison ns=[1-9]'; do
		grep -m 1 "privmemfd_$pattern" "$TRACING/trace" || {
			echo "no trace event like privmemfd_$pattern"
			return 1
		}
	done
}

suite "load KVM" 60 load_kvm /modules/kvm
suite "privmemctl without the module" 60 /tests/privmemctl_user_test "without the module"
suite "KUnit" 60 load_with_kunit
suite "load what fails" 10 load_faults
self_tests
suite "trace events" 60 trace_events
suite "unload what fails" 10 unload_faults
suite "unload is refused while a file exists" 60 unload_is_refused
suite "unload is refused while a counter is open" 60 unload_with_a_counter_open
suite "unload with a path descriptor left" 60 unload_under_a_path
suite "30 load and unload cycles" 300 load_cycles 30
suite "unload KVM" 60 unload_kvm
suite "kmemleak" 200 no_leaks
