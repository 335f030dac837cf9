#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# TDs whose memory moves while the TDX module refuses calls. First all TDs live;
# then some are lost: the kernel has nothing to say to either. Last, the module
# refuses what it has no reason to, which KVM calls a bug.
# faults.sh [MiB] [vCPUs]
# shellcheck source=../tdx-guest.sh
. /lib/tdx.sh

load_tdx /modules/kvm || exit 126
insmod /modules/privmemfd.ko && insmod /modules/tdxfaults.ko && insmod /modules/tdxwitness.ko || exit 126
/tests/td-test faults "$@"
status=$?
/tests/td-test lost "$@" || status=1
no_kernel_report || status=1
/tests/td-test bugs "$@" || status=1

# These have to be there; run.sh looks for those that must not.
for place in 'tdx_sept_\(remove_leaf\|set_private\)_spte' tdp_mmu_find_mirror_leaf; do
	dmesg | grep -q "WARNING:.*$place" || {
		echo "KVM has not noticed its bug in $place"
		status=1
	}
done
exit $status
