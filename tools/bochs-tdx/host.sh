# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# For scripts that have sourced ../vm/prepare.sh: boots the emulated TDX host.

# tdx_host BOCHS OUT SECONDS [OPTIONS...] -- JOB [ARGS...]: run jobs/JOB.sh there, with
# KVM and the module as `prepare` has left them. OPTIONS: more for boot.py. The memory
# has blocks that can go offline.
tdx_host() {
	local bochs=$1 out=$2 seconds=$3 options=() job
	shift 3
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	job=$2
	shift 2
	"$TOP/tools/bochs-tdx/boot.py" --bochs "$bochs" --kernel "$KERNEL" --memory 1024M --cpus 2 \
		--append movablecore=512M --timeout "$seconds" --out "$out" \
		--add "$KVM_MODULES/kvm.ko:/modules/kvm/" --add "$KVM_MODULES/kvm-intel.ko:/modules/kvm/" \
		--add "$MODULE:/modules/" "${options[@]}" -- "$TOP/tools/bochs-tdx/jobs/$job.sh" "$@"
}
