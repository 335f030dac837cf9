#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# TDs on movable memory: KVM with our series, privmemfd.ko.
# privmemfd.sh [MiB] [vCPUs] [moves]
# shellcheck source=../tdx-guest.sh
. /lib/tdx.sh

load_tdx /modules/kvm || exit 1
insmod /modules/privmemfd.ko || exit 1
/tests/td-test privmemfd "$@"
status=$?
no_kernel_report || status=1
exit $status
