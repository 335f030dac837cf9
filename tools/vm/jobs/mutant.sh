#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# One broken module: the tests that are to notice, until the first that fails.
# mutant.sh TEST...: without _test
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_kvm /modules/kvm && insmod /modules/privmemfd.ko && insmod /modules/tdxemu.ko tags=256 &&
	insmod /modules/tdhost.ko && insmod /modules/copyfail.ko && insmod /modules/markfailed.ko &&
	insmod /modules/hwpoison-inject.ko || exit 126
for name; do
	timeout -s KILL 300 "/tests/${name}_test" || exit 1
done
grep -q '^stray_writes 0$' /sys/kernel/debug/tdxemu/violations
