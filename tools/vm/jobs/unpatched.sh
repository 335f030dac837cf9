#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The module on a kernel without our patches, or with those of another version:
# loads, says that binding is off, and is a memfd all the same.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

binding_is_refused() {
	says_binding_is_off | grep -E '\((EINVAL|Error\(22\))\)$' && /tests/privmemctl_test
}

# The other module is not kept, and can go. Both go also if a test fails: KVM could not else.
is_refused_by_another_version() {
	insmod /modules/otherkvm.ko || return 1
	lines=$(dmesg | wc -l)
	insmod /modules/privmemfd.ko && binding_is_refused
	passed=$?
	rmmod otherkvm && rmmod privmemfd && [ $passed -eq 0 ]
}

without_patches unpatched
suite "unpatched: a KVM of another version" 400 is_refused_by_another_version
suite "unpatched: unload KVM" 60 unload_kvm
