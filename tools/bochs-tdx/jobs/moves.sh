#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# The shortest test of memory that moves under TDs, for something that is broken.
# moves.sh [MiB] [vCPUs] [moves]
# shellcheck source=../tdx-guest.sh
. /lib/tdx.sh

load_tdx /modules/kvm || exit 1
insmod /modules/privmemfd.ko || exit 1
/tests/td-test moves "$@"
status=$?
no_kernel_report || status=1
exit $status
