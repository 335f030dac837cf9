#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Bugs of KVM that the series fixes, on whatever KVM is in /modules/kvm: see
# tools/upstream-bugs/run.sh.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

# in_background PROGRAM...: nobody can wait for, or kill, what is in a deadlock. It has
# to say itself, in its last line, how it ends.
in_background() {
	"$@" >/tmp/output 2>&1 &
	seconds=0
	while ! grep -q '^result: ' /tmp/output && [ $seconds -lt 150 ]; do
		sleep 1
		seconds=$((seconds + 1))
	done
	cat /tmp/output
	grep -q '^result: good' /tmp/output
}

suite "load KVM" 60 load_kvm /modules/kvm
suite "unflushed-slot" 120 /tests/unflushed-slot 60
suite "failing-page" 200 in_background /tests/failing-page 20
