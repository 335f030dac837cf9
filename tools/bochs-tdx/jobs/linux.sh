#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# An unmodified Linux as a TD on movable memory. linux.sh [td-host's
# options...]; with --shell the line to the job is the TD's console. Afterwards every page
# and KeyID has to be back, and the module has to go.
# shellcheck source=../tdx-guest.sh
. /lib/tdx.sh
COUNTERS=/sys/kernel/debug/privmemfd

load_tdx /modules/kvm || exit 126
insmod /modules/privmemfd.ko serve_all=1 && insmod /modules/tdxfaults.ko || exit 126
case " $* " in
*" --shell "*)
	# A VMM turns OPOST on; the TD's own line discipline has done that.
	stty -F /dev/ttyS1 -onlcr
	/tests/td-host "$@" </dev/ttyS1
	;;
*) /tests/td-host "$@" ;;
esac
status=$?
for file in "$COUNTERS"/*; do
	echo "${file##*/} $(cat "$file")"
done >/out/counters
rmmod tdxfaults
rmmod privmemfd kvm_intel kvm || {
	echo "not ok a module does not go: $(grep -E '^(privmemfd|kvm)' /proc/modules)"
	status=1
}
no_kernel_report || status=1
exit $status
