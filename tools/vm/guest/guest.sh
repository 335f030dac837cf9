# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# For the jobs that run in the test VM: `. /lib/guest.sh`.
# Modules are in /modules; KVM's in a folder given to load_kvm.

# load_kvm [DIR]: irqbypass is built in when no KVM user wants it as a module.
load_kvm() {
	dir=${1:-/modules/kvm}
	[ ! -e "$dir/irqbypass.ko" ] || insmod "$dir/irqbypass.ko" || return 1
	insmod "$dir/kvm.ko" && insmod "$dir/kvm-amd.ko" && [ -c /dev/kvm ]
}

unload_kvm() {
	rmmod kvm_amd kvm
	! grep -q '^irqbypass ' /proc/modules || rmmod irqbypass
}

# counter NAME: one number of the module's debugfs folder.
counter() {
	cat "/sys/kernel/debug/privmemfd/$1"
}
