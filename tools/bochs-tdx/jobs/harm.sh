#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# A host that touches a TD's memory, or whose TDX module keeps pages. KVM complains about
# the TD it cannot tear down any more, as it would on hardware.
# shellcheck source=../tdx-guest.sh
. /lib/tdx.sh

load_tdx /modules/kvm || exit 126
insmod /modules/privmemfd.ko && insmod /modules/stray.ko && insmod /modules/tdxfaults.ko || exit 126
/tests/td-test harm "$@"
