#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# check-kdir.sh KDIR: can the module be built for the kernel of this build tree? If not,
# say what is missing and where to get it.
kdir=${1:?check-kdir.sh KDIR}
config=$kdir/include/config/auto.conf

# die LINE...: the first is what is wrong, the others what to do.
die() {
	printf 'error: %s\n' "$1"
	shift
	printf '       %s\n' "$@"
	exit 1
} >&2

[ -f "$config" ] ||
	die "$kdir is no kernel build tree" \
		"install your kernel's headers, or give a tree: make KDIR=/path/to/build"
grep -q '^CONFIG_RUST=y' "$config" ||
	die "the kernel of $kdir has no Rust support" \
		"build one with CONFIG_RUST=y; 'make run' does that by itself in a VM"

# What rustc reads of the kernel's crates. Distributions' headers often leave it out.
missing=
for file in rust/libcore.rmeta rust/libcompiler_builtins.rmeta rust/libffi.rmeta rust/libbindings.rmeta \
	rust/libuapi.rmeta rust/libpin_init.rmeta rust/libkernel.rmeta rust/libmacros.so scripts/target.json; do
	[ -e "$kdir/$file" ] || missing="$missing $file"
done
[ -z "$missing" ] ||
	die "the kernel of $kdir has Rust, but modules in Rust cannot be built with this tree" \
		"missing:$missing" \
		"For a kernel of Debian, tools/build/stock-kdir.sh RELEASE makes a full tree. Others:" \
		"make one from the source of exactly that kernel, with the same rustc:" \
		"  mkdir OUT; cp $kdir/.config OUT/; make -C SOURCE O=OUT olddefconfig modules_prepare" \
		"  cp $kdir/Module.symvers OUT/; make KDIR=OUT" \
		"'make run' needs none of this: it builds a kernel of its own."
