#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# areas.sh NODES: CMA areas where each node has one, and where there is one node.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

# areas_of_nodes: the kernel has made as many as the job is about.
areas_of_nodes() {
	set -- "$1" /sys/kernel/debug/cma/*
	echo "$(($# - 1)) areas, $1 nodes"
	[ $(($# - 1)) -eq "$1" ] && [ -d "/sys/devices/system/node/node$(($1 - 1))" ] &&
		[ ! -d "/sys/devices/system/node/node$1" ]
}

suite "$1 nodes: one CMA area each" 5 areas_of_nodes "$1"
suite "$1 nodes: load KVM" 60 load_kvm /modules/kvm
suite "$1 nodes: load" 60 insmod /modules/privmemfd.ko
suite "$1 nodes: privmemctl_free_test CMA" 100 /tests/privmemctl_free_test CMA
suite "$1 nodes: unload" 60 rmmod privmemfd
