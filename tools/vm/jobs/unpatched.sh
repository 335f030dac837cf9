#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The module on a kernel without our patches, or with those of another version:
# loads, says that binding is off, and is a memfd all the same.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

says_binding_is_off() {
	log_since "$lines" | grep -i 'privmemfd.*binding is off'
}

# The other module is not kept, and can go.
is_refused_by_another_version() {
	insmod /modules/otherkvm.ko || return 1
	lines=$(dmesg | wc -l)
	insmod /modules/privmemfd.ko || return 1
	says_binding_is_off | grep -E '\((EINVAL|Error\(22\))\)$' || return 1
	/tests/privmemctl_test && rmmod otherkvm && rmmod privmemfd
}

suite "unpatched: load KVM" 60 load_kvm /modules/stock-kvm
lines=$(dmesg | wc -l)
suite "unpatched: load" 60 insmod /modules/privmemfd.ko
suite "unpatched: the log says that KVM binding is off" 5 says_binding_is_off
for name in abi file privmemctl; do
	suite "unpatched: ${name}_test" 400 "/tests/${name}_test"
done
# What needs no VM; and what a VM says here.
suite "unpatched: errno_test" 400 /tests/errno_test ENOMEM ENFILE EINTR ENOTTY EINVAL EACCES readahead
suite "unpatched: migrate_test" 400 /tests/migrate_test ZONE_MOVABLE without
suite "unpatched: kvm_test" 60 /tests/kvm_test 'if it reports'
suite "unpatched: unload" 60 rmmod privmemfd
suite "unpatched: a KVM of another version" 400 is_refused_by_another_version
suite "unpatched: unload KVM" 60 unload_kvm
