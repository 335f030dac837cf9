#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# provision.sh [--stock]: make a Debian 12 (or newer) machine able to build everything:
# packages, rust-src that matches rustc, bindgen, Linux source. Safe to run again: each
# step is skipped when its result is there. --stock: what a kernel that Debian has built
# asks for; stock-kdir.sh gets its source and compilers.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

PACKAGES=(
	make gcc libc6-dev flex bison bc libelf-dev libssl-dev cpio kmod rsync busybox-static
	pahole xz-utils patch perl python3 ca-certificates
)
# For kernels of our own, Bochs and the checkers.
MORE_PACKAGES=(
	"clang-$LLVM_VERSION" "lld-$LLVM_VERSION" "llvm-$LLVM_VERSION" "libclang-$LLVM_VERSION-dev"
	uuid-dev sparse shellcheck lz4
)
# Where there is a QEMU that is new enough, if the machine's own is not.
QEMU_SUITES=(trixie-backports forky)
# The first that knows what Linux 7.3 asks for; what is built where no package has it.
MIN_BINDGEN=0.71.1
BINDGEN_VERSION=0.72.1
BINDGEN_SUITE=trixie
MIN_RUSTC=1.85
MIN_QEMU=10.2

packages() {
	local missing=() p
	for p in "${PACKAGES[@]}"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" -ne 0 ]; then
		say "not root: if something is missing below, install as root: apt-get install ${missing[*]}"
		return 0
	fi
	apt-get update -qq >&2 || die "apt-get update failed" "check the network and the apt sources"
	apt_install "${missing[@]}"
}

# apt_install PACKAGE...: on the machine itself, as root.
apt_install() {
	say "installing packages: $*"
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$CACHE/apt.log" 2>&1 || {
		tail -n 20 "$CACHE/apt.log" >&2
		die "cannot install: $*" "read $CACHE/apt.log; a full disk or no network are the usual causes"
	}
}

rust_toolchain() {
	if ! command -v rustc >/dev/null || ! command -v cargo >/dev/null; then
		die "no rustc and cargo in PATH" "install Rust $MIN_RUSTC or newer: rustup, or Debian's rustc and cargo"
	fi
	RUSTC_VERSION=$(rustc --version | awk '{ print $2 }')
	printf '%s\n%s\n' "$MIN_RUSTC" "$RUSTC_VERSION" | sort -VC ||
		die "rustc $RUSTC_VERSION is too old for Linux $KERNEL_SERIES" "install rustc $MIN_RUSTC or newer"
}

rust_src() {
	local sysroot want
	sysroot=$(rustc --print sysroot)
	want=$CACHE/rust-src-$RUSTC_VERSION
	if [ -d "$sysroot/lib/rustlib/src/rust/library/core" ]; then
		ln -sfn "$sysroot/lib/rustlib/src/rust/library" "$CACHE/rust-src"
		return 0
	fi
	if [ ! -d "$want/core" ]; then
		say "fetching rust-src $RUSTC_VERSION"
		if command -v rustup >/dev/null && timeout 120 rustup component add rust-src >/dev/null 2>&1; then
			ln -sfn "$sysroot/lib/rustlib/src/rust/library" "$CACHE/rust-src"
			return 0
		fi
		local suite version
		for suite in trixie-backports trixie bookworm-backports forky sid; do
			version=$(private_apt "$suite" apt-cache madison rust-src 2>/dev/null |
				awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | grep -m1 "^$RUSTC_VERSION" || true)
			[ -n "$version" ] || continue
			rm -rf "$CACHE/rust-src.deb"
			download_deb "$suite" "rust-src=$version" "$CACHE/rust-src.deb" || continue
			mkdir -p "$want"
			cp -a "$CACHE"/rust-src.deb/usr/src/rustc-*/library/. "$want/"
			rm -rf "$CACHE/rust-src.deb"
			break
		done
	fi
	[ -d "$want/core" ] || die "no source of the Rust standard library for rustc $RUSTC_VERSION" \
		"run: rustup component add rust-src (or install a rustc whose rust-src your distribution has)"
	ln -sfn "$want" "$CACHE/rust-src"
}

# bindgen_works PROGRAM: it runs, and is new enough.
bindgen_works() {
	local version
	version=$("$1" --version 2>/dev/null | awk '{ print $2 }')
	[ -n "$version" ] && printf '%s\n%s\n' "$MIN_BINDGEN" "$version" | sort -VC
}

# The machine's own, if it is new enough; else a package of another suite, unpacked, which
# takes seconds; else built, which takes minutes.
install_bindgen() {
	bindgen_works "$(bindgen_bin)" && return 0
	say "fetching bindgen of $BINDGEN_SUITE (150 MB with libclang)"
	debian_bindgen "$BINDGEN_SUITE" "$CACHE/bindgen" && bindgen_works "$(bindgen_bin)" && return 0
	rm -rf "$CACHE/bindgen"
	say "building bindgen $BINDGEN_VERSION (about 2 minutes)"
	cargo install --quiet --locked --root "$CACHE/bindgen" bindgen-cli --version "$BINDGEN_VERSION" >&2 ||
		die "cannot build bindgen $BINDGEN_VERSION" "check that cargo can reach its registry"
}

# QEMU: what the user names, the machine's own, the machine's package, or another
# suite's in $CACHE/qemu, in this order; see qemu_bin.
qemu() {
	local suite candidate
	if [ -n "${QEMU:-}" ]; then
		"$TOP/tools/vm/qemu.py" "$QEMU" || exit 1
		return 0
	fi
	if "$TOP/tools/vm/qemu.py" qemu-system-x86_64 2>/dev/null; then
		rm -rf "$CACHE/qemu"
		return 0
	fi
	if [ -x "$CACHE/qemu/qemu-system-x86_64" ]; then
		"$TOP/tools/vm/qemu.py" "$CACHE/qemu/qemu-system-x86_64" 2>/dev/null && return 0
	fi
	# Version 1:10.0.2+ds-2: the epoch is the packaging's.
	candidate=$(LC_ALL=C apt-cache policy qemu-system-x86 2>/dev/null | sed -n 's/^ *Candidate: \([0-9]*:\)\?//p')
	if [ "$(id -u)" -eq 0 ] && dpkg --compare-versions "${candidate:-0}" ge "$MIN_QEMU"; then
		apt_install qemu-system-x86
		"$TOP/tools/vm/qemu.py" qemu-system-x86_64 && return 0
	fi
	need_disk "$CACHE" 500
	for suite in "${QEMU_SUITES[@]}"; do
		say "fetching QEMU of $suite (36 MB): $("$TOP/tools/vm/qemu.py" qemu-system-x86_64 2>&1 | sed -n 's/^error: //p')"
		install_qemu "$suite" "$CACHE/qemu" || continue
		"$TOP/tools/vm/qemu.py" "$CACHE/qemu/qemu-system-x86_64" && return 0
	done
	rm -rf "$CACHE/qemu"
	"$TOP/tools/vm/qemu.py" qemu-system-x86_64 || true
	die "no QEMU $MIN_QEMU or newer to be had" \
		"check the network and the apt sources, or name your own: QEMU=/path/to/qemu-system-x86_64"
}

# Prints nothing; leaves the tree at $CACHE/linux (a link).
kernel_source() {
	local tree version
	if [ -n "${KSRC:-}" ]; then
		[ -f "$KSRC/Makefile" ] || die "KSRC=$KSRC is no kernel source tree" "point it at a Linux $KERNEL_SERIES tree"
		ln -sfn "$(cd "$KSRC" && pwd -P)" "$CACHE/linux"
	elif [ ! -f "$CACHE/linux/Makefile" ]; then
		need_disk "$CACHE" 6000
		say "fetching Linux $KERNEL_SERIES source (160 MB)"
		local suite
		for suite in trixie-backports trixie forky sid; do
			rm -rf "$CACHE/linux.deb"
			download_deb "$suite" "linux-source-$KERNEL_SERIES" "$CACHE/linux.deb" 2>/dev/null && break
		done
		if compgen -G "$CACHE/linux.deb/usr/src/*.tar.xz" >/dev/null; then
			say "unpacking Linux source"
			mkdir -p "$CACHE/linux-src.part"
			tar -C "$CACHE/linux-src.part" --strip-components=1 -xf "$CACHE"/linux.deb/usr/src/linux-source-*.tar.xz
			rm -rf "$CACHE/linux.deb"
		else
			kernel_org || die "no Linux $KERNEL_SERIES source to be had" \
				"check the network, or give your own tree: make KSRC=/path/to/linux-$KERNEL_SERIES ..."
		fi
		version=$(make -s -C "$CACHE/linux-src.part" kernelversion)
		rm -rf "$CACHE/linux-$version"
		mv "$CACHE/linux-src.part" "$CACHE/linux-$version"
		ln -sfn "linux-$version" "$CACHE/linux"
	fi
	tree=$CACHE/linux
	version=$(make -s -C "$tree" kernelversion)
	case $version in
	"$KERNEL_SERIES" | "$KERNEL_SERIES".*) ;;
	*) die "$tree is Linux $version" "the patches are made against Linux $KERNEL_SERIES: give such a tree by KSRC=" ;;
	esac
}

kernel_org() {
	local url=https://cdn.kernel.org/pub/linux/kernel/v7.x/linux-$KERNEL_SERIES.tar.xz
	say "no Debian package; trying $url"
	mkdir -p "$CACHE/linux-src.part"
	curl -fsSL --max-time 1800 "$url" | tar -C "$CACHE/linux-src.part" --strip-components=1 -xJ
}

stock=''
case ${1:-} in
'') PACKAGES+=("${MORE_PACKAGES[@]}") ;;
--stock) stock=1 ;;
*) die "unknown option '$1'" "provision.sh [--stock]" ;;
esac

need_disk "$CACHE" 2000
exclusive provision
packages
rust_toolchain
qemu
tools=(flex bison bc cpio)
if [ -z "$stock" ]; then
	rust_src
	install_bindgen
	kernel_source
	tools+=("clang-$LLVM_VERSION" "ld.lld-$LLVM_VERSION")
fi
for tool in "${tools[@]}"; do
	command -v "$tool" >/dev/null || die "$tool is missing" "as root: apt-get install ${PACKAGES[*]}"
done
