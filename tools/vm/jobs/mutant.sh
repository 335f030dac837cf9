#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# One broken backend: the tests of TDs, until the first that fails.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

insmod /modules/privmemfd.ko && insmod /modules/tdxemu.ko tags=256 && insmod /modules/tdhost.ko || exit 126
for name in tdx tdx_race; do
	timeout -s KILL 300 "/tests/${name}_test" || exit 1
done
grep -q '^stray_writes 0$' /sys/kernel/debug/tdxemu/violations
