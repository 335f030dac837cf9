#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Our tests and Upstream's on a kernel that a distribution has built: first with its KVM as
# it is, then with KVM's modules with our patches.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

says_binding_is_off() {
	log_since "$lines" | grep -i 'privmemfd.*binding is off'
}

suite "stock KVM: load" 60 load_kvm /modules/stock-kvm
lines=$(dmesg | wc -l)
suite "stock KVM: load the module" 60 insmod /modules/privmemfd.ko
suite "stock KVM: the log says that KVM binding is off" 5 says_binding_is_off
for name in abi file kvm; do
	suite "stock KVM: ${name}_test" 400 "/tests/${name}_test"
done
suite "stock KVM: unload" 60 rmmod privmemfd
suite "stock KVM: unload KVM" 60 unload_kvm

suite "load KVM" 60 load_kvm /modules/kvm
suite "load" 60 insmod /modules/privmemfd.ko
for name in copyfail markfailed hwpoison-inject; do
	suite "load $name" 10 insmod "/modules/$name.ko"
done
for name in abi file errno move kcore privmemctl migrate race kvm hwpoison; do
	suite "${name}_test" 600 "/tests/${name}_test"
done
suite "unload copyfail" 10 rmmod copyfail markfailed hwpoison_inject
suite "unload" 60 rmmod privmemfd
suite "load, serving all" 60 insmod /modules/privmemfd.ko serve_all=1
upstream "on our memory"
suite "unload again" 60 rmmod privmemfd
suite "10 load and unload cycles" 100 load_cycles 10
suite "unload KVM" 60 unload_kvm
