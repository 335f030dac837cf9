#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The TDX emulator: its KUnit suite on the real instruction, its files, load and
# unload. /modules/tdxemu.ko is the module.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

FILES=/sys/kernel/debug/tdxemu

# load [PARAMETER...]: the suite runs at load, and reports to the log.
load() {
	lines=$(dmesg | wc -l)
	insmod /modules/tdxemu.ko "$@" || return 1
	log_since "$lines"
	log_since "$lines" | grep -q '^\(\[.*\] \)\?ok 1 tdxemu$'
}

# load_with_tags: for 8 GiB, so that the suite can check that they work.
load_with_tags() {
	load tags=256 && ! log_since "$lines" | grep -q 'would not be found'
}

# says FILE PATTERN...: each is in a line.
says() {
	file=$1
	shift
	for pattern; do
		grep -q "$pattern" "$FILES/$file" || {
			echo "$file does not say $pattern"
			cat "$FILES/$file"
			return 1
		}
	done
}

# holds FILE CONTENT
holds() {
	[ "$(cat "$FILES/$1")" = "$2" ] || {
		echo "$1 holds: $(cat "$FILES/$1")"
		return 1
	}
}

# refuses FILE TEXT
refuses() {
	! echo "$2" 2>/dev/null >"$FILES/$1"
}

taints() {
	# TAINT_TEST is bit 18.
	[ $(($(cat /proc/sys/kernel/tainted) >> 18 & 1)) -eq 1 ] && dmesg | grep -q 'SEAMCALL is EMULATED'
}

state_file() {
	says state '^module INIT_PENDING$' "^lps $(grep -c '^processor' /proc/cpuinfo) initialized 0\$" '^keyid shift 40 bits 6 first_private 32' '^cmr base' &&
		holds keyid_shift 40 && refuses state nonsense && echo reset >$FILES/state
}

counter_files() {
	# What the suite did.
	says counters '^TDH.MEM.PAGE.RELOCATE calls 66$' '^TDH.MEM.PAGE.RELOCATE SUCCESS 64$' \
		'^TDH.MEM.PAGE.RELOCATE TLB_TRACKING_NOT_DONE|0x1 1$' '^TDH.VP.ENTER EXIT_1 [1-9]' \
		'^TDH.VP.ENTER EXIT_77 ' '^P-SEAMLDR VMFAILINVALID 1$' &&
		says guest '^pages_accepted 6[46]$' '^mismatches 32768$' '^exits_vmcall [1-9]' || return 1
	echo >$FILES/counters && holds counters '' || return 1
	echo >$FILES/guest && says guest '^entries 0$' '^pages_accepted 0$'
}

fault_file() {
	printf 'TDH.MEM.TRACK nth=3 status=0x80000200000000a9 repeat=2\n7 random=1/4 seed=9 delay=50\n' >$FILES/faults &&
		holds faults 'TDH.MEM.TRACK nth=3 repeat=2 status=0x80000200000000a9 fired=0
TDH.MEM.RANGE.BLOCK random=16384/65536 delay=50 fired=0' || return 1
	lines=$(dmesg | wc -l)
	refuses faults 'TDH.MEM.TRACK when=now' &&
		log_since "$lines" | grep -q 'not a fault rule: TDH.MEM.TRACK when=now' || return 1
	echo clear >$FILES/faults && holds faults ''
}

log_file() {
	says log '"op":"TDH.PHYMEM.PAGE.RECLAIM","lp":[0-9]*,"in":' && refuses log nonsense &&
		echo clear >$FILES/log && holds log ''
}

burst_file() {
	holds burst_us 200 && echo 5000 >$FILES/burst_us && holds burst_us 5000 && refuses burst_us 2000000
}

cycles() {
	cycle=0
	while [ "$cycle" -lt "$1" ]; do
		cycle=$((cycle + 1))
		insmod /modules/tdxemu.ko || break
		rmmod tdxemu || break
	done
	echo "$cycle of $1 cycles"
	! grep -q '^tdxemu ' /proc/modules && [ ! -e $FILES ] && [ "$cycle" -eq "$1" ]
}

bad_parameters() {
	! insmod /modules/tdxemu.ko hkid_bits=8 && ! insmod /modules/tdxemu.ko burst_us=1000001 &&
		! grep -q '^tdxemu ' /proc/modules
}

suite "tdxemu: load, KUnit" 60 load
suite "tdxemu: taint" 5 taints
suite "tdxemu: state" 5 state_file
suite "tdxemu: counters" 5 counter_files
suite "tdxemu: faults" 5 fault_file
suite "tdxemu: log" 5 log_file
suite "tdxemu: burst" 5 burst_file
suite "tdxemu: violations" 5 says violations '^stray_writes 0$' '^outside_ram 3$' '^dead 0$'
suite "tdxemu: unload" 10 rmmod tdxemu
suite "tdxemu: load with tags, KUnit" 60 load_with_tags
suite "tdxemu: unload with tags" 10 rmmod tdxemu
suite "tdxemu: load without cipher, KUnit" 60 load cipher=0
suite "tdxemu: unload without cipher" 10 rmmod tdxemu
suite "tdxemu: bad parameters" 10 bad_parameters
suite "tdxemu: 20 load and unload cycles" 300 cycles 20
