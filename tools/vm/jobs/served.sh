#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Upstream's tests with our module behind KVM_CREATE_GUEST_MEMFD.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

suite "served: load" 60 eval 'load_kvm /modules/kvm && insmod /modules/privmemfd.ko serve_all=1'
upstream "on our memory"
suite "served: unload" 60 rmmod privmemfd
suite "served: kmemleak" 200 no_leaks
