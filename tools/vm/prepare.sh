# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Shared by run.sh, bench.sh and test.sh: build what goes into the VM, boot it.
# shellcheck source-path=SCRIPTDIR source=../build/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../build/lib.sh"

BUILD=$TOP/build
TARGET=x86_64-unknown-linux-gnu
PROGRAMS=$BUILD/cargo/$TARGET/release
# Two nodes, each with a zone of movable memory, and a CMA area.
MEMORY=8G
COMMAND_LINE="numa=fake=2 movablecore=4G cma=64M"
# More for vm.py.
VM_OPTIONS=()
# VM_EXITS=1 in the environment: keep a log of VM exits (testing.rst).
[ -z "${VM_EXITS:-}" ] || VM_OPTIONS+=(--vm-exits)

# only_one: ends the script if it is running in this checkout already, for its logs are at one place.
only_one() {
	mkdir -p "$BUILD"
	exec 9>"$BUILD/${0##*/}.lock"
	flock -n 9 || die "another ${0##*/} is running in this checkout" "wait for its end, or use another checkout"
}

# prepare plain|debug|kcsan|rt|stock: everything up to, but without, the boot. Sets KERNEL,
# the build folder or, of stock, the image, KDIR, KVM_MODULES, MODULE and TEST_MODULES, and
# KERNEL_MODULES, the kernel's own that jobs load. The programs are built meanwhile: much of the
# rest is waiting for downloads, at first.
prepare() {
	local programs
	programs &
	programs=$!
	prepare_kernel "$1" || {
		kill "$programs" 2>/dev/null
		exit 1
	}
	# Another run in this checkout may want the same.
	mkdir -p "$BUILD"
	exec 8>"$BUILD/modules-$1.lock"
	flock 8
	build_module "$1"
	TEST_MODULES=$BUILD/test-modules-$1
	say "TDX emulator and test modules for the $1 kernel"
	"$TOP/tools/build/test-modules.sh" "$KDIR" "$TEST_MODULES" \
		KBUILD_EXTRA_SYMBOLS="$BUILD/module-$1/Module.symvers" || exit 1
	exec 8>&-
	wait "$programs" || die "the programs under tools/ do not build" "read the messages above"
}

# What is waited for, most of which uses one CPU, goes first.
programs() {
	renice -n 10 -p "$BASHPID" >/dev/null
	say "user-space programs"
	cargo_tools build --release --quiet --workspace
}

# prepare_kernel FLAVOUR: the kernel and KVM for it.
prepare_kernel() {
	local source more=()
	[ "$1" != stock ] || more=(--stock)
	"$TOP/tools/build/provision.sh" "${more[@]}" || return 1
	QEMU=$(qemu_bin)
	export QEMU
	if [ "$1" = stock ]; then
		KDIR=$("$TOP/tools/build/stock-kdir.sh" ${RELEASE:+"$RELEASE"}) || return 1
		STOCK=$("$TOP/tools/build/stock-image.sh" "$KDIR") || return 1
		KERNEL=$STOCK/vmlinuz
		KVM_MODULES=$("$TOP/tools/build/kvm-modules.sh" --sw-protected "$KDIR" "$KDIR/source") || return 1
		KERNEL_MODULES=("$STOCK"/{irqbypass,ccp,hwpoison-inject}.ko)
	else
		source=$(readlink -f "$CACHE/linux")
		KERNEL=$("$TOP/tools/build/kernel.sh" "$1") || return 1
		KDIR=$KERNEL
		KVM_MODULES=$("$TOP/tools/build/kvm-modules.sh" "$KERNEL" "$source") || return 1
		kernel_modules
	fi
}

# kernel_modules: those of KERNEL, a build folder, that jobs load.
kernel_modules() {
	local file
	KERNEL_MODULES=()
	for file in "$KERNEL"/virt/lib/irqbypass.ko "$KERNEL"/mm/hwpoison-inject.ko; do
		[ ! -f "$file" ] || KERNEL_MODULES+=("$file")
	done
}

# build_module FLAVOUR: privmemfd.ko for it.
build_module() {
	MODULE=$BUILD/module-$1/privmemfd.ko
	# The kernel refuses to build elsewhere while objects lie in the sources.
	if [ -e "$TOP/modules.order" ]; then
		say "removing the module that was built in the source tree"
		make -s --no-print-directory -C "$TOP" module-clean KDIR="$KDIR" >/dev/null ||
			die "cannot clean the source tree" "run: make clean KDIR=$KDIR"
	fi
	mkdir -p "$BUILD/module-$1"
	say "module for the $1 kernel"
	make -s --no-print-directory -C "$TOP" module KDIR="$KDIR" MO="$BUILD/module-$1" >"$BUILD/module-$1.log" 2>&1 || {
		tail -n 30 "$BUILD/module-$1.log" >&2
		die "the module does not build" "read $BUILD/module-$1.log"
	}
}

# demo_machine: two nodes of 2 GiB for the demonstration, which fills them; ZONE_MOVABLE
# needs memory above 4 GiB, the CMA area must not lie there.
demo_machine() {
	MEMORY=4G
	COMMAND_LINE="numa=fake=2 movablecore=2G cma=64M@0-1G"
	VM_OPTIONS+=(--low-memory 1G)
}

# whole NAME VALUE MIN MAX WHY: what a user says by NAME= must be such a number; WHY says what
# sets the bounds.
whole() {
	if ! [[ $2 =~ ^[1-9][0-9]{0,6}$ ]] || [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then
		die "$1=$2: not a whole number from $3 to $4" "$5"
	fi
}

# most OPTION: what the kernel's configuration says it takes at most.
most() {
	sed -n "s/^CONFIG_$1=//p" "$KDIR/.config" | grep . || echo 1
}

# nodes LEAST: NUMA= in the environment is how many the machine has.
nodes() {
	[ -n "${NUMA:-}" ] || return 0
	whole NUMA "$NUMA" "$1" $((1 << $(most NODES_SHIFT))) \
		"CONFIG_NODES_SHIFT=$(most NODES_SHIFT) of this kernel; fewer than $1 are not enough here"
	COMMAND_LINE=${COMMAND_LINE/numa=fake=2/numa=fake=$NUMA}
}

# machine_size: what MIB=, VCPUS= and NUMA= say of the machine itself. Half of the memory
# is movable.
machine_size() {
	local here
	nodes 1
	if [ -n "${MIB:-}" ]; then
		here=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)
		whole MIB "$MIB" 1024 "$here" "less is too little for the tests, and this host has $here MiB"
		MEMORY=${MIB}M
		COMMAND_LINE=${COMMAND_LINE/movablecore=4G/movablecore=$((MIB / 2))M}
	fi
	if [ -n "${VCPUS:-}" ]; then
		whole VCPUS "$VCPUS" 1 $(($(most NR_CPUS) - 1)) \
			"CONFIG_NR_CPUS=$(most NR_CPUS) of this kernel, and one CPU is its own; KERNEL=stock takes more"
		VM_OPTIONS+=(--cpus "$VCPUS")
	fi
}

# cargo_tools COMMAND ARGS...: static programs, for the VM has no libraries.
cargo_tools() {
	local command=$1
	shift
	(cd "$TOP/tools" && cargo "$command" --locked --target "$TARGET" --target-dir "$BUILD/cargo" "$@")
}

# Arguments of the job.
JOB_ARGUMENTS=()

# boot JOB OUT SECONDS [MORE_FILES...]: run tools/vm/jobs/JOB.sh in a VM.
boot() {
	local job=$1 out=$2 seconds=$3 file
	local add=(
		--add "$MODULE:/modules/" --add "$TEST_MODULES/tdxemu.ko:/modules/" --add "$TEST_MODULES/tdhost.ko:/modules/"
		--add "$TEST_MODULES/copyfail.ko:/modules/" --add "$TEST_MODULES/otherkvm.ko:/modules/"
		--add "$TEST_MODULES/badprovider.ko:/modules/" --add "$TEST_MODULES/markfailed.ko:/modules/"
		--add "$TEST_MODULES/memscan.ko:/modules/" --add "$TEST_MODULES/cmaalloc.ko:/modules/"
		--add "$KVM_MODULES/kvm.ko:/modules/kvm/" --add "$KVM_MODULES/kvm-amd.ko:/modules/kvm/"
	)
	shift 3
	# The self-tests and the programs: whatever is executable there, no build files.
	while read -r file; do
		add+=(--add "$file:/tests/")
	done < <(find "$PROGRAMS" -maxdepth 1 -type f -executable -not -name '*.so')
	for file in "${KERNEL_MODULES[@]}"; do
		add+=(--add "$file:/modules/")
	done
	for file; do
		add+=(--add "$file")
	done
	"$TOP/tools/vm/vm.py" "${VM_OPTIONS[@]}" --kernel "$KERNEL" --memory "$MEMORY" --append "$COMMAND_LINE" \
		--timeout "$seconds" --out "$out" "${add[@]}" -- "$TOP/tools/vm/jobs/$job.sh" "${JOB_ARGUMENTS[@]}"
}

# kernel_log OUT: the log of a machine, or of its console if it died.
kernel_log() {
	if [ -s "$1/dmesg.log" ]; then echo "$1/dmesg.log"; else echo "$1/console.log"; fi
}
