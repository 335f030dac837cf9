#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# selftests.sh KSRC: build Upstream's own KVM selftests that use guest_memfd,
# unmodified and static, and print their folder. The source tree is only read:
# headers and objects go to the cache.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

TESTS=(
	guest_memfd_test set_memory_region_test pre_fault_memory_test
	x86/private_mem_kvm_exits_test x86/private_mem_conversions_test
)

src=$(readlink -f "${1:?the kernel source}")
tests=$src/tools/testing/selftests
[ -f "$tests/kvm/Makefile.kvm" ] ||
	die "$src has no tools/testing/selftests/kvm" "point KSRC at a full Linux $KERNEL_SERIES tree"

# Also when somebody changes a test in his own tree the result is a new one.
content=$(cd "$tests" && find kvm cgroup/lib vfio/lib -name '*.[chS]' -print0 |
	sort -z | xargs -0 cat | sha256sum)
out=$CACHE/selftests-$(key "$(make -s -C "$src" kernelversion)" "$content" "$(gcc --version | head -n 1)" "${TESTS[*]}")
echo "$out/bin"
[ ! -e "$out/complete" ] || exit 0
exclusive selftests
[ ! -e "$out/complete" ] || exit 0

need_disk "$CACHE" 500
say "building Upstream's KVM selftests (1 minute, once)"
mkdir -p "$out"/{headers,objects,bin}
make -C "$src" O="$out/headers" headers >"$out/headers.log" 2>&1 ||
	die "cannot install the kernel's headers" "read $out/headers.log (a source tree with a build in it needs 'make mrproper' first)"
targets=("${TESTS[@]/#/$out/objects/}")
build() {
	# The selftests' own top-level Makefile does the same for O=, but all tests at once.
	make -C "$tests/kvm" -j"$(nproc)" ARCH=x86 OUTPUT="$out/objects" CC=gcc LDFLAGS=-static TMPOUT="$out/try" \
		KHDR_INCLUDES="-isystem $out/headers/usr/include" "${targets[@]}"
}
with_progress "KVM selftests" 60 "$out/build.log" build ||
	die "Upstream's KVM selftests do not build" "read $out/build.log; they need uuid-dev and a static libc"
for target in "${targets[@]}"; do
	strip -o "$out/bin/$(basename "$target")" "$target"
done
touch "$out/complete"
