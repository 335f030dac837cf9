# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# For the jobs that run in the test VM: `. /lib/guest.sh`.
# /modules/privmemfd.ko is the module, /modules/kvm has KVM's with our patches,
# /modules/stock-kvm has those of the kernel as it is, /tests our own programs,
# /upstream Upstream's tests.

# This machine is there for tests: they may do anything to it (selftests::effects).
export PRIVMEMFD_MAY="offline poison limits"

COUNTERS=/sys/kernel/debug/privmemfd
TRACING=/sys/kernel/tracing

# load_kvm DIR: irqbypass is built in when no KVM user wants it as a module, and kvm-amd
# of a kernel with SEV needs ccp.
load_kvm() {
	for before in irqbypass ccp; do
		[ ! -e "/modules/$before.ko" ] || insmod "/modules/$before.ko" || return 1
	done
	insmod "$1/kvm.ko" && insmod "$1/kvm-amd.ko" && [ -c /dev/kvm ]
}

unload_kvm() {
	rmmod kvm_amd && rmmod kvm || return 1
	for before in ccp irqbypass; do
		! grep -q "^$before " /proc/modules || rmmod "$before" || return 1
	done
}

# need_cma: kernels without CONFIG_CMA_DEBUGFS have the area, but nobody to ask for it. There
# may be more than this one, which cma= is about.
need_cma() {
	[ ! -d /sys/kernel/debug/cma ] || return 0
	insmod /modules/cmaalloc.ko pages="$(cat /sys/kernel/mm/cma/reserved/total_pages)"
}

# counter NAME: one number of the module's debugfs folder.
counter() {
	cat "$COUNTERS/$1"
}

# traced COMMAND...: run it while our events are traced. Not longer, also if it fails: what comes
# after it would be slower.
traced() {
	echo 1 >"$TRACING/events/privmemfd/enable"
	"$@"
	traced_status=$?
	echo 0 >"$TRACING/events/privmemfd/enable"
	return $traced_status
}

uptime_seconds() {
	cut -d. -f1 /proc/uptime
}

# suite NAME SECONDS COMMAND...: run it between the marks that ktap.py looks for.
# A program is killed when its time is over; a shell function has no limit.
suite() {
	suite_name=$1
	suite_limit=$2
	shift 2
	suite_start=$(uptime_seconds)
	echo ">>> suite $suite_name"
	case $(type "$1") in
	*function* | *builtin*) "$@" ;;
	*) timeout -s KILL "$suite_limit" "$@" ;;
	esac
	suite_status=$?
	suite_took=$(($(uptime_seconds) - suite_start))
	[ "$suite_status" -ne 137 ] || [ "$suite_took" -lt "$suite_limit" ] || suite_status=124
	echo "<<< suite $suite_name: exit $suite_status, $suite_took s"
}

# log_since LINES: what the kernel logged after its first LINES lines.
log_since() {
	dmesg | tail -n "+$(($1 + 1))"
}

# load_with_kunit: load the module; its KUnit suites run and report to the log.
load_with_kunit() {
	lines=$(dmesg | wc -l)
	insmod /modules/privmemfd.ko || return 1
	log_since "$lines"
	log_since "$lines" | grep -q 'KTAP version' || {
		echo "no KUnit suite ran"
		return 1
	}
}

load_cycles() {
	cycle=0
	while [ "$cycle" -lt "$1" ]; do
		cycle=$((cycle + 1))
		insmod /modules/privmemfd.ko || break
		rmmod privmemfd || break
	done
	echo "$cycle of $1 cycles"
	! grep -q '^privmemfd ' /proc/modules && [ "$cycle" -eq "$1" ]
}

# no_leaks: a leak is reported when two scans, some seconds apart, agree.
no_leaks() {
	[ -e /sys/kernel/debug/kmemleak ] || return 4
	sleep 5
	echo scan >/sys/kernel/debug/kmemleak
	sleep 5
	echo scan >/sys/kernel/debug/kmemleak
	cat /sys/kernel/debug/kmemleak >/tmp/leaks
	cat /tmp/leaks
	[ ! -s /tmp/leaks ]
}

# load_faults: what has copies and memory fail.
load_faults() {
	for name in copyfail markfailed hwpoison-inject; do
		insmod "/modules/$name.ko" || return 1
	done
}

unload_faults() {
	rmmod copyfail markfailed hwpoison_inject
}

# self_tests: ours, with KVM's modules with our patches, the module and load_faults. After the
# last some memory has failed: the kernel takes no block with such pages offline.
self_tests() {
	for name in abi file errno move kcore privmemctl migrate race kvm hwpoison; do
		suite "${name}_test" 400 "/tests/${name}_test"
	done
}

# tool_tests LABEL: those of privmemctl that need what no debug kernel has time for, and all of
# offlining.
tool_tests() {
	for name in privmemctl_free privmemctl_user guide; do
		suite "$1: ${name}_test" 100 "/tests/${name}_test"
	done
	suite "$1: offline_test" 200 /tests/offline_test
}

says_binding_is_off() {
	log_since "$lines" | grep -i 'privmemfd.*binding is off'
}

# without_patches LABEL: the module on KVM's own modules of the kernel, in /modules/stock-kvm:
# it loads, says that binding is off, and is a memfd all the same.
without_patches() {
	suite "$1: load KVM" 60 load_kvm /modules/stock-kvm
	lines=$(dmesg | wc -l)
	suite "$1: load" 60 insmod /modules/privmemfd.ko
	suite "$1: the log says that KVM binding is off" 5 says_binding_is_off
	for name in abi file privmemctl; do
		suite "$1: ${name}_test" 400 "/tests/${name}_test"
	done
	# What needs no VM; and what a VM says here.
	suite "$1: errno_test" 400 /tests/errno_test ENOMEM ENFILE EINTR ENOTTY EINVAL EACCES readahead
	suite "$1: migrate_test" 400 /tests/migrate_test ZONE_MOVABLE without
	suite "$1: kvm_test" 60 /tests/kvm_test 'if it reports'
	suite "$1: unload" 60 rmmod privmemfd
}

# upstream LABEL: Upstream's tests, unmodified, but for the long one. With the module in
# place each must have used files that are ours.
upstream() {
	upstream_test "$1" 300 guest_memfd_test
	upstream_test "$1" 300 pre_fault_memory_test
	upstream_test "$1" 300 private_mem_kvm_exits_test
	upstream_test "$1" 300 private_mem_conversions_test
	upstream_test "$1" 300 private_mem_conversions_test -m 2 -n 2
}

# upstream_long LABEL: minutes on a plain kernel, much longer on a debug kernel.
upstream_long() {
	upstream_test "$1" 900 set_memory_region_test
}

upstream_test() {
	label=$1
	limit=$2
	shift 2
	[ ! -d "$COUNTERS" ] || before=$(counter files_created_kvm)
	# They open the file that argv[0] names.
	program=/upstream/$1
	shift
	suite "upstream $label: ${program##*/}${*:+ $*}" "$limit" "$program" "$@"
	[ ! -d "$COUNTERS" ] ||
		suite "upstream $label: ${program##*/}${*:+ $*} used our files" 5 served "$before"
}

served() {
	after=$(counter files_created_kvm)
	echo "files_created_kvm: $1 before, $after after"
	[ "$after" -gt "$1" ]
}
