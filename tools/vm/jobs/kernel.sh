#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What any kernel has to be able to do: KUnit, our tests, TDs, loading and unloading.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_tdx() {
	insmod /modules/tdxemu.ko tags=256 && insmod /modules/tdhost.ko
}

unload_tdx() {
	rmmod tdxemu && rmmod tdhost
}

suite "load KVM" 60 load_kvm /modules/kvm
suite "KUnit" 60 load_with_kunit
suite "load the TDX module" 60 load_tdx
for name in tdx tdx_race tdx_tool; do
	suite "${name}_test" 400 "/tests/${name}_test"
done
suite "unload the TDX module" 60 unload_tdx
suite "load what fails" 10 load_faults
# The last of them makes the host lose pages, and their memory blocks stay online.
self_tests
suite "unload what fails" 10 unload_faults
suite "unload" 60 rmmod privmemfd
suite "10 load and unload cycles" 100 load_cycles 10
suite "unload KVM" 60 unload_kvm
