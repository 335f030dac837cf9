#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Makes a Debian 12 (or newer) machine able to build everything: packages,
# rust-src that matches rustc, bindgen, Linux source. Safe to run again: each
# step is skipped when its result is there.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

PACKAGES=(
	"clang-$LLVM_VERSION" "lld-$LLVM_VERSION" "llvm-$LLVM_VERSION" "libclang-$LLVM_VERSION-dev"
	make gcc libc6-dev flex bison bc libelf-dev libssl-dev cpio kmod rsync busybox-static
	qemu-system-x86 uuid-dev pahole sparse shellcheck lz4 xz-utils patch perl python3 ca-certificates
)
BINDGEN_VERSION=0.72.1
MIN_RUSTC=1.85

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
	say "installing packages: ${missing[*]}"
	apt-get update -qq >&2 || die "apt-get update failed" "check the network and the apt sources"
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		"${missing[@]}" >"$CACHE/apt.log" 2>&1 || {
		tail -n 20 "$CACHE/apt.log" >&2
		die "cannot install: ${missing[*]}" "read $CACHE/apt.log; a full disk or no network are the usual causes"
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

# A private apt state: reads one more suite of the machine's own mirror without
# touching its configuration.
private_apt() {
	local suite=$1 state=$CACHE/apt/$1 site
	shift
	# shellcheck disable=SC2016 # apt's own placeholder
	site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' |
		grep -v security | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
	[ -n "$site" ] || return 1
	mkdir -p "$state"/{lists/partial,cache/archives/partial}
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main" >"$state/sources.list"
	: >"$state/status"
	local opts=(-o "Dir::State=$state" -o "Dir::State::lists=$state/lists" -o "Dir::State::status=$state/status"
		-o "Dir::Cache=$state/cache" -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=/dev/null
		-o APT::Sandbox::User=root)
	if [ ! -e "$state/updated" ]; then
		apt-get "${opts[@]}" update -qq >&2 && touch "$state/updated"
	fi
	"$1" "${opts[@]}" "${@:2}"
}

# download_deb SUITE SPEC TARGET_DIR: unpack a package without installing it.
download_deb() {
	local dir
	dir=$(mktemp -d "$CACHE/deb.XXXXXX")
	if ! (cd "$dir" && private_apt "$1" apt-get download -qq "$2" >&2); then
		rm -rf "$dir"
		return 1
	fi
	mkdir -p "$3"
	dpkg-deb -x "$dir"/*.deb "$3"
	rm -rf "$dir"
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

install_bindgen() {
	"$(bindgen_bin)" --version 2>/dev/null | grep -q "$BINDGEN_VERSION" && return 0
	say "building bindgen $BINDGEN_VERSION (about 2 minutes)"
	cargo install --quiet --locked --root "$CACHE/bindgen" bindgen-cli --version "$BINDGEN_VERSION" >&2 ||
		die "cannot build bindgen $BINDGEN_VERSION" "check that cargo can reach its registry"
}

# Prints nothing; leaves the tree at $CACHE/linux (a link).
kernel_source() {
	local tree version
	if [ -n "${KSRC:-}" ]; then
		[ -f "$KSRC/Makefile" ] || die "KSRC=$KSRC is no kernel source tree" "point it at a Linux $KERNEL_SERIES tree"
		ln -sfn "$(cd "$KSRC" && pwd)" "$CACHE/linux"
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

need_disk "$CACHE" 2000
exclusive provision
packages
rust_toolchain
rust_src
install_bindgen
kernel_source
for tool in "clang-$LLVM_VERSION" "ld.lld-$LLVM_VERSION" flex bison bc cpio qemu-system-x86_64; do
	command -v "$tool" >/dev/null || die "$tool is missing" "as root: apt-get install ${PACKAGES[*]}"
done
