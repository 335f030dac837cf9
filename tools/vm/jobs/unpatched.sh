#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The module on a kernel without our patches, or with those of another version:
# loads, says that binding is off, and is a memfd all the same.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

# The other module is not kept, and can go.
is_refused_by_another_version() {
	insmod /modules/otherkvm.ko || return 1
	lines=$(dmesg | wc -l)
	insmod /modules/privmemfd.ko || return 1
	says_binding_is_off | grep -E '\((EINVAL|Error\(22\))\)$' || return 1
	/tests/privmemctl_test && rmmod otherkvm && rmmod privmemfd
}

without_patches unpatched
suite "unpatched: a KVM of another version" 400 is_refused_by_another_version
suite "unpatched: unload KVM" 60 unload_kvm
