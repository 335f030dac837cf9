#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# hostile.sh SEED: where in memory guest content is, once without the TDX module's
# cipher, which shows that a TD's content would be found; then 2,000 random operations
# against a model, other ones than the plain kernel's 10,000.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load() {
	insmod /modules/privmemfd.ko && insmod /modules/tdxemu.ko "$@" && insmod /modules/tdhost.ko
}

unload() {
	rmmod tdxemu && rmmod tdhost && rmmod privmemfd
}

helpers() {
	insmod /modules/hwpoison-inject.ko && insmod /modules/memscan.ko && insmod /modules/copyfail.ko
}

suite "hostile: load KVM" 60 load_kvm /modules/kvm
suite "hostile: load what fails and what looks" 10 helpers
suite "hostile: load without cipher" 60 load cipher=0
PLAIN_TDS=1 suite "privacy_test without cipher" 300 /tests/privacy_test "a TD's content is nowhere"
suite "hostile: unload without cipher" 60 unload
suite "hostile: load" 60 load tags=256
suite "privacy_test" 600 /tests/privacy_test
suite "2,000 random operations" 300 /tests/privmemfd-soak model --ops 2000 --seed $(($1 + 1000))
suite "hostile: unload" 60 unload
