# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# For the jobs on the emulated TDX host: `. /lib/tdx.sh`.

# save_counters: brings back how often KVM's modules have executed their lines.
save_counters() {
	gzip -c /sys/kernel/debug/count >/out/count.gz
}

# load_tdx DIR: KVM with TDX, unless it is built in; says what the kernel found.
load_tdx() {
	if [ -e /modules/count.ko ]; then
		insmod /modules/count.ko || return 1
		trap save_counters EXIT
	fi
	[ ! -e /modules/irqbypass.ko ] || insmod /modules/irqbypass.ko || return 1
	[ ! -e "$1/kvm.ko" ] || insmod "$1/kvm.ko" || return 1
	[ ! -e "$1/kvm-intel.ko" ] || insmod "$1/kvm-intel.ko" tdx=1 || return 1
	dmesg | grep -E 'virt/tdx|x86/(mk)?tme'
	[ "$(cat /sys/module/kvm_intel/parameters/tdx)" = Y ] || {
		echo "KVM does not offer TDX"
		return 1
	}
}

# no_kernel_report: nothing in the log that tells of a bug.
no_kernel_report() {
	! dmesg | grep -E -A 20 'WARNING:|BUG:|Oops|SEAMCALL .* failed|Call Trace'
}
