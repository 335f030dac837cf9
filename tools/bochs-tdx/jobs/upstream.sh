#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# TDs on the kernel as it is: upstream's KVM, its guest_memfd.
# upstream.sh [MiB] [vCPUs]
# shellcheck source=../tdx-guest.sh
. /lib/tdx.sh

load_tdx /modules/stock-kvm || exit 126
/tests/td-test kvm "$@"
status=$?
no_kernel_report || status=1
exit $status
