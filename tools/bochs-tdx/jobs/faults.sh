#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# TDs whose memory moves while the TDX module refuses calls. First all TDs live,
# and the kernel has nothing to say; then some are lost, which KVM calls a bug.
# faults.sh [MiB] [vCPUs]
# shellcheck source=../tdx-guest.sh
. /lib/tdx.sh

load_tdx /modules/kvm || exit 1
insmod /modules/privmemfd.ko && insmod /modules/tdxfaults.ko || exit 1
/tests/td-test faults "$@"
status=$?
no_kernel_report || status=1
/tests/td-test lost "$@" || status=1

# One for a TD that is lost, one for the TDR of a TD whose pages cannot be had.
EXPECTED='tdx_sept_relocate_private_sptes|__tdx_reclaim_page'
dmesg | grep -E 'WARNING:' | grep -E -v "$EXPECTED" && status=1
dmesg | grep -E 'BUG:|Oops|general protection|Bad page' && status=1
dmesg | grep -E 'WARNING:.*tdx_sept_relocate_private_sptes' >/dev/null || {
	echo "KVM has not noticed that a TD is lost"
	status=1
}
exit $status
