#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Our tests and Upstream's on a kernel that a distribution has built: first with its KVM as
# it is, then with KVM's modules with our patches.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

without_patches "stock KVM"
suite "stock KVM: unload KVM" 60 unload_kvm

suite "load KVM" 60 load_kvm /modules/kvm
suite "privmemctl without the module" 60 /tests/privmemctl_user_test "without the module"
suite "load" 60 insmod /modules/privmemfd.ko
suite "load what fails" 10 load_faults
tool_tests stock
self_tests
suite "unload what fails" 10 unload_faults
suite "unload" 60 rmmod privmemfd
suite "load, serving all" 60 insmod /modules/privmemfd.ko serve_all=1
upstream "on our memory"
suite "unload again" 60 rmmod privmemfd
suite "10 load and unload cycles" 100 load_cycles 10
suite "unload KVM" 60 unload_kvm
