#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kernel.sh FLAVOUR: build the test kernel unpatched, once for each set of {source
# version, config, toolchain}, and print its build folder. A flavour is plain or, on
# top of that, another fragment of tools/vm/config; the compiler is clang, of gcc*
# the machine's gcc. The KVM patches are not part of it: they touch kvm.ko and the
# vendor modules only, which kvm-modules.sh builds beside it, so a new patch costs no
# new kernel.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

config=$TOP/tools/vm/config
flavours=$(cd "$config" && echo *.config | sed 's/\.config//g')
flavour=${1:?one of $flavours}
src=$(readlink -f "$CACHE/linux")
fragments=("$config/plain.config")
steps=1650
[ -f "$config/$flavour.config" ] || die "unknown kernel flavour '$flavour'" "there are: $flavours"
[ "$flavour" = plain ] || fragments+=("$config/$flavour.config")
case $flavour in
gcc*) export KERNEL_CC=gcc ;;
modversions)
	[ -f /usr/include/dwarf.h ] || die "gendwarfksyms needs libdw" "apt-get install libdw-dev"
	;;
esac

identity=$(key "$src" "$(make -s -C "$src" kernelversion)" "$(toolchain_id)" "${fragments[@]}")
out=$CACHE/kernel-$flavour-$identity
echo "$out"
[ ! -e "$out/complete" ] || exit 0
exclusive "kernel-$flavour"
[ ! -e "$out/complete" ] || exit 0

need_disk "$CACHE" 8000
say "building the $flavour kernel (4 to 25 minutes on 2 cores, once)"
mkdir -p "$out"
kmake "$src" O="$out" tinyconfig >"$out/config.log" 2>&1 ||
	die "tinyconfig failed" "read $out/config.log"
(cd "$out" && "$src/scripts/kconfig/merge_config.sh" -m .config "${fragments[@]}") >>"$out/config.log" 2>&1
kmake "$src" O="$out" olddefconfig >>"$out/config.log" 2>&1 ||
	die "olddefconfig failed" "read $out/config.log"
grep -q '^CONFIG_RUST=y' "$out/.config" ||
	die "this toolchain cannot build Rust for the kernel" \
		"run 'make -C $src LLVM=-$LLVM_VERSION rustavailable' to see why"
# What the fragment asks for and Kconfig has not granted would be tested by nobody.
asked=$(grep '^CONFIG_' "${fragments[-1]}" | grep -vxFf "$out/.config") || true
[ "$flavour" = plain ] || [ -z "$asked" ] || die "this source or toolchain has no" "${asked//$'\n'/ }"
with_progress "$flavour kernel" "$steps" "$out/build.log" \
	kmake "$src" O="$out" -j"$(nproc)" bzImage modules ||
	die "the $flavour kernel does not build" "read $out/build.log; to start over remove $out"
# Judges: Upstream's own KVM selftests, unmodified, against this kernel's headers.
touch "$out/complete"
