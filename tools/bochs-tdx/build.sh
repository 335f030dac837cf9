#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# build.sh [--source]: build Bochs with a TDX module in it and print the folder of the
# result: bochs, roms/ and td-test, a VMM that creates TDs; or that of its patched and built
# source. The emulator proper is
# compiled once for each patch and compiler; a change of the module costs a link.
# Exits with 4, kselftest's SKIP, if something that has to be downloaded is not to
# be had.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../build/lib.sh
. "$(dirname "$0")/../build/lib.sh"

HERE=$TOP/tools/bochs-tdx
# Bugs of Bochs, one a file, then what TDX needs.
PATCHES=("$HERE"/fixes/*.patch "$HERE/bochs.patch")
VERSION=3.0
SUITES=(trixie forky sid)
FLAGS=(
	--with-nogui --disable-plugins --disable-debugger --disable-docbook
	--enable-cpu-level=6 --enable-x86-64 --enable-smp --enable-vmx=2 --enable-long-phy-address
	--enable-large-ramfile --enable-memtype --enable-all-optimizations --enable-configurable-msrs
	--enable-avx --enable-evex --enable-cet --enable-uintr --enable-protection-keys
	--enable-monitor-mwait --enable-perfmon
	--enable-pci --enable-cdrom --disable-usb --disable-sb16 --disable-voodoo
)

# unavailable MESSAGE [ADVICE]: end like die.
unavailable() {
	(die "$@") || exit 4
}

apt_install() {
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

packages() {
	local missing=() p
	for p in g++ make patch xz-utils xorriso isolinux syslinux-common busybox-static; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	[ "$(id -u)" -eq 0 ] || die "missing: ${missing[*]}" "as root: apt-get install ${missing[*]}"
	say "installing packages: ${missing[*]}"
	apt_install "${missing[@]}" >"$CACHE/apt.log" 2>&1 || {
		apt-get update -qq >&2 && apt_install "${missing[@]}" >"$CACHE/apt.log" 2>&1
	} || unavailable "cannot install: ${missing[*]}" "read $CACHE/apt.log"
}

# The upstream tarball, from Debian's source package.
source_tarball() {
	local target=$CACHE/bochs-$VERSION.tar.xz suite uri sum
	[ ! -s "$target" ] || return 0
	for suite in "${SUITES[@]}"; do
		read -r uri sum < <(private_apt "$suite/source" apt-get source --print-uris bochs 2>/dev/null |
			awk -v want="bochs_$VERSION" 'index($2, want) == 1 && $2 ~ /orig\.tar/ {
				gsub(/\047/, "", $1); print $1, $4 }') || continue
		[ -n "$uri" ] || continue
		say "fetching the source of Bochs $VERSION"
		/usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file "$uri" "$target.part" "$sum" >&2 ||
			continue
		mv "$target.part" "$target"
		return 0
	done
	unavailable "no source of Bochs $VERSION to be had" "put its tarball at $target"
}

# download_roms DIR: BIOS and VGA BIOS, from Debian's packages.
download_roms() {
	local dir package
	dir=$(mktemp -d "$CACHE/roms.XXXXXX")
	for package in bochsbios vgabios; do
		download_deb "${SUITES[0]}" "$package" "$dir" || {
			rm -rf "$dir"
			unavailable "cannot download $package" "check the network and the apt sources"
		}
	done
	mkdir -p "$1"
	cp "$dir/usr/share/bochs/BIOS-bochs-latest" "$dir/usr/share/vgabios/vgabios.bin" "$1/"
	rm -rf "$dir"
}

# compile DIR: the patched emulator; the module's library has no content yet.
compile() {
	local src=$1 patch
	need_disk "$CACHE" 1000
	rm -rf "$src"
	mkdir -p "$src"
	tar -C "$src" --strip-components=1 -xf "$CACHE/bochs-$VERSION.tar.xz"
	for patch in "${PATCHES[@]}"; do
		patch -s -d "$src" -p1 <"$patch" || die "${patch##*/} does not apply to Bochs $VERSION"
	done
	install_module_sources "$src"
	say "building Bochs (4 minutes on 2 cores, once)"
	(cd "$src" && CFLAGS=-O2 CXXFLAGS=-O2 LIBS="$src/libtdx_emu_capi.a -lpthread -ldl" \
		./configure "${FLAGS[@]}") >"$src/configure.log" 2>&1 ||
		die "Bochs cannot be configured" "read $src/configure.log"
	with_progress Bochs 1050 "$src/build.log" make -C "$src" -j"$(nproc)" ||
		die "Bochs does not build" "read $src/build.log; to start over remove $src"
	touch "$src/complete"
}

install_module_sources() {
	cp "$HERE"/cpu/* "$TOP/tools/tdx-emu/capi/include/tdx_emu.h" "$1/cpu/"
	cp "$LIBRARY" "$1/"
}

module_library() {
	(cd "$TOP/tools/tdx-emu" && cargo build --quiet --locked --release -p tdx-emu-capi \
		--target-dir "$TOP/build/cargo-model") >&2 ||
		die "the TDX module model does not build" "read the messages above"
	LIBRARY=$(find -H "$TOP/build/cargo-model" -path '*/release/libtdx_emu_capi.a' -print -quit)
}

vmm() {
	(cd "$HERE/td" && cargo build --quiet --locked --release --target-dir "$TOP/build/cargo-td") >&2 ||
		die "the test VMM does not build" "read the messages above"
	VMM=$(find -H "$TOP/build/cargo-td" -path '*/release/td-test' -print -quit)
}

mkdir -p "$CACHE"
packages
module_library
vmm
src=$CACHE/bochs-src-$(key "$VERSION" "${FLAGS[*]}" "$(g++ --version | head -n 1)" "${PATCHES[@]}")
out=$CACHE/bochs-$(key "$src" "$HERE"/cpu/* "$LIBRARY" "$VMM")
if [ "${1:-}" = --source ]; then echo "$src"; else echo "$out"; fi
[ ! -e "$out/complete" ] || exit 0
exclusive bochs
[ ! -e "$out/complete" ] || exit 0
source_tarball
[ -e "$src/complete" ] || compile "$src"
install_module_sources "$src"
rm -f "$src"/cpu/tdx*.o "$src/bochs"
make -C "$src" >"$src/link.log" 2>&1 || {
	tail -n 25 "$src/link.log" >&2
	die "Bochs does not build" "read $src/link.log"
}
mkdir -p "$out"
cp "$src/bochs" "$VMM" "$out/"
[ -e "$out/roms/vgabios.bin" ] || download_roms "$out/roms"
touch "$out/complete"
