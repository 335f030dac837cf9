#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# make test ONLY=: some cases of one of our test programs, with all that any of its cases
# could ask for. The arguments are the program's name and words of its cases.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load() {
	load_kvm /modules/kvm && insmod /modules/privmemfd.ko || return 1
	for name in copyfail markfailed memscan hwpoison-inject; do
		[ ! -e "/modules/$name.ko" ] || insmod "/modules/$name.ko" || return 1
	done
	case $1 in
	tdx_* | privacy_test) insmod /modules/tdxemu.ko && insmod /modules/tdhost.ko ;;
	esac
}

program=$1
shift
# What loads is no case of its own unless it fails.
load "$program" || exit 125
suite "$program${*:+ $*}" 600 "/tests/$program" "$@"
