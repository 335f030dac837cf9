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
		--add "$MODULE:/modules/" --add "$PROGRAMS/privmemctl:/tests/" "${options[@]}" \
		-- "$TOP/tools/bochs-tdx/jobs/$job.sh" "$@"
}

# host_kernel TREE [SOURCE]: as `prepare`, for a kernel that somebody has built in TREE; SOURCE is
# its source, if TREE/source is not.
host_kernel() {
	[ -f "$1/arch/x86/boot/bzImage" ] || die "no kernel has been built in $1" "give a build tree"
	KERNEL=$1
	KDIR=$1
	KVM_MODULES=$("$TOP/tools/build/kvm-modules.sh" "$1" "${2:-$(readlink -f "$1/source")}") || exit 1
	build_module other
	TEST_MODULES=$BUILD/test-modules-other
	"$TOP/tools/build/test-modules.sh" "$KDIR" "$TEST_MODULES" \
		KBUILD_EXTRA_SYMBOLS="$BUILD/module-other/Module.symvers" || exit 1
}

# linux_td_parts: what an unmodified Linux TD is made of. Sets PARTS, TD_PROGRAMS and
# TD_ARCHIVE.
linux_td_parts() {
	local here=$TOP/tools/bochs-tdx
	PARTS=$("$here/parts.sh") || exit $?
	(cd "$here/linux-td" && cargo build --quiet --locked --release --target-dir "$BUILD/cargo-linux-td") >&2 ||
		die "the programs of the TD do not build" "read the messages above"
	TD_PROGRAMS=$BUILD/cargo-linux-td/$TARGET/release
	TD_ARCHIVE=$BUILD/td-initrd
	"$here/td-initrd.py" "$TD_ARCHIVE" "$TD_PROGRAMS/td-init" "${TD_MODULES:-$PARTS/modules}"
}

# linux_td BOCHS OUT SECONDS CPUS [OPTIONS...] -- [td-host's options...]: run it.
linux_td() {
	local bochs=$1 out=$2 seconds=$3 cpus=$4 options=()
	shift 4
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	shift
	"$TOP/tools/bochs-tdx/boot.py" --bochs "$bochs" --kernel "$KERNEL" --memory 2048M \
		--cpus "$cpus" --append movablecore=1024M --timeout "$seconds" --out "$out" "${options[@]}" \
		--add "$KVM_MODULES/kvm.ko:/modules/kvm/" --add "$KVM_MODULES/kvm-intel.ko:/modules/kvm/" \
		--add "$MODULE:/modules/" --add "$TEST_MODULES/tdxfaults.ko:/modules/" \
		--add "$PARTS/qemu:/td/qemu" --add "$PARTS/OVMF.fd:/td/" --add "${TD_KERNEL:-$PARTS/vmlinuz}:/td/vmlinuz" \
		--add "${TD_INITRD:-$TD_ARCHIVE}:/td/initrd" --add "$TD_PROGRAMS/td-host:/tests/" \
		-- "$TOP/tools/bochs-tdx/jobs/linux.sh" "$@"
}
