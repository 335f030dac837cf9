#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Bugs of KVM that the series fixes, on whatever KVM is in /modules/kvm: see
# tools/upstream-bugs/run.sh.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

# in_background PROGRAM...: nobody can wait for, or kill, what is in a deadlock. It has
# to say itself, in its last line, how it ends.
# shellcheck disable=SC2317 # called by suite
in_background() {
	: >/tmp/output
	"$@" >/tmp/output 2>&1 &
	seconds=0
	while kill -0 $! 2>/dev/null && ! grep -q '^result: ' /tmp/output && [ "$seconds" -lt 600 ]; do
		sleep 1
		seconds=$((seconds + 1))
	done
	cat /tmp/output
	if kill -0 $! 2>/dev/null; then
		echo "# it still runs after $seconds s"
	else
		wait $! || echo "# it has ended with status $?"
	fi
	grep -q '^result: good' /tmp/output
}

status=0
suite "load KVM" 60 load_kvm /modules/kvm
[ "$suite_status" -eq 0 ] || exit 126
suite "unflushed-slot" "$(($1 + 60))" /tests/unflushed-slot "$1"
[ "$suite_status" -eq 0 ] || status=1
suite "failing-page" 660 in_background /tests/failing-page "$2"
[ "$suite_status" -eq 0 ] || status=1
exit $status
