#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh [N [SECONDS [TRIES]]]: try, in a VM, the bugs of KVM that the first patches of
# the series fix: with the first N patches, by default none, i.e. with the kernel as it
# is; fails if there is one. SECONDS (60) is for the unflushed slot, TRIES (20) for the
# failing page.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../build/lib.sh
. "$(dirname "$0")/../build/lib.sh"

HERE=$TOP/tools/upstream-bugs
OUT=$TOP/build/upstream-bugs
patches=${1:-0}
seconds=${2:-60}
tries=${3:-20}

"$TOP/tools/build/provision.sh" || exit 1
QEMU=$(qemu_bin)
export QEMU
source=$(readlink -f "$CACHE/linux")
kernel=$("$TOP/tools/build/kernel.sh" plain) || exit 1
# For the kernel's headers, which it installs.
tests=$("$TOP/tools/build/selftests.sh" "$source") || exit 1
modules=$kernel/arch/x86/kvm
[ "$patches" -eq 0 ] ||
	modules=$("$TOP/tools/build/kvm-modules.sh" --only "$patches" "$kernel" "$source") || exit 1

mkdir -p "$OUT"
add=(--add "$modules/kvm.ko:/modules/kvm/" --add "$modules/kvm-amd.ko:/modules/kvm/")
[ ! -f "$kernel/virt/lib/irqbypass.ko" ] || add+=(--add "$kernel/virt/lib/irqbypass.ko:/modules/")
for program in unflushed-slot failing-page; do
	"clang-$LLVM_VERSION" -O2 -Wall -static -pthread -isystem "$tests/../headers/usr/include" \
		-o "$OUT/$program" "$HERE/$program.c"
	add+=(--add "$OUT/$program:/tests/")
done
# One processor for each thread that never sleeps.
"$TOP/tools/vm/vm.py" --kernel "$kernel" --memory 4G --cpus 4 --timeout $((seconds + 800)) --out "$OUT/$patches" \
	"${add[@]}" -- "$TOP/tools/vm/jobs/upstream-bugs.sh" "$seconds" "$tries"
