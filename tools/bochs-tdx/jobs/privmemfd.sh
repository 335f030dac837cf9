#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# TDs on movable memory: KVM with our series, privmemfd.ko. tdx-smoke has to say
# that the module is missing, and then that nothing is.
# privmemfd.sh privmemfd|moves|faults|lost|bugs [MiB] [vCPUs] [moves] [case...]
# shellcheck source=../tdx-guest.sh
. /lib/tdx.sh

load_tdx /modules/kvm || exit 126
/tests/tdx-smoke | tee /tmp/smoke | grep -m 1 '^MISSING' | grep 'privmemfd is loaded' || {
	cat /tmp/smoke
	echo "not ok tdx-smoke does not say that privmemfd.ko comes next"
	exit 1
}
insmod /modules/privmemfd.ko || exit 126
/tests/tdx-smoke || {
	echo "not ok tdx-smoke finds something missing on a host that is ready"
	exit 1
}
case $1 in
privmemfd | moves) ;;
*) insmod /modules/tdxfaults.ko && insmod /modules/tdxwitness.ko || exit 126 ;;
esac
/tests/td-test "$@"
status=$?
# Of what is there for KVM to notice, it is to say something.
[ "$1" = bugs ] || no_kernel_report || status=1
exit $status
