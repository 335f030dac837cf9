#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Our own tests on KVM with our patches, then load/unload cycles, then leaks.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

suite "load KVM" 60 load_kvm /modules/kvm
suite "KUnit" 60 load_with_kunit
for name in abi file kvm migrate race; do
	suite "${name}_test" 400 "/tests/${name}_test"
done
suite "unload" 60 rmmod privmemfd
suite "100 load and unload cycles" 300 load_cycles 100
suite "unload KVM" 60 unload_kvm
suite "kmemleak" 200 no_leaks
