#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# stock-kdir.sh [RELEASE]: make a build tree with Rust metadata for a kernel that Debian
# has built, and print its folder. RELEASE is as `uname -r` says it; without it, the newest
# of Linux 7.3 in SUITE. The tree is KDIR for make, tree/source KSRC for kvm-modules.
# stock-kdir.sh --possible: end with 0 where that can be done, as far as one can tell
# without doing it, else say why not.
#
# Debian's headers have no metadata of the kernel's Rust crates. The same source, config
# and compilers make the same: from these it is built here, and compared with what the
# headers say of the kernel that Debian has built. Nothing is installed; where the
# machine's compilers are others, Debian's are unpacked (tree/toolchain).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

SUITE=${STOCK_SUITE:-trixie-backports}
# The kernel's compilers come from the suite that backports are for.
COMPILERS=(rustc rust-src bindgen make gcc flex bison bc libc6-dev libelf-dev libssl-dev zlib1g-dev openssl pahole kmod cpio)

# apt's record of a package: record PACKAGE FIELD
record() {
	private_apt "$SUITE" apt-cache show --no-all-versions "$1" 2>/dev/null |
		sed -n "s/^$2: //p" | head -n 1
}

newest_release() {
	private_apt "$SUITE" apt-cache search --names-only "^linux-headers-$KERNEL_SERIES\\..*-amd64\$" |
		awk '{ print $1 }' | grep -v -e -cloud- -e -rt- | sort -V | tail -n 1 | sed 's/^linux-headers-//'
}

# of CONFIG NAME: a value without its quotes.
of() {
	sed -n "s/^CONFIG_$2=\"\\?\\([^\"]*\\)\"\\?\$/\\1/p" "$1"
}

# is VERSION_TEXT COMMAND...: does the machine have this compiler?
is() {
	local want=$1
	shift
	[ "$("$@" --version 2>/dev/null | head -n 1)" = "$want" ]
}

# fetch PACKAGE: of the kernel's version, into $parts.
fetch() {
	say "fetching $1 $version"
	download_deb "$SUITE" "$1=$version" "$parts" ||
		die "cannot download $1 $version" "check the network and apt's mirror"
}

# rust_exports KDIR: symbols that the kernel's crates export, as this tree was built.
rust_exports() {
	sed -n 's/^EXPORT_SYMBOL_RUST_GPL(\(.*\));$/\1/p' "$1"/rust/exports_*_generated.h | sort -u
}

# kernel_rust_symbols SYMVERS: those that the built kernel exports.
kernel_rust_symbols() {
	awk '$3 == "vmlinux" && $2 ~ /^_R/ { print $2 }' "$1" | sort -u
}

# same WHAT FILE FILE ADVICE: the kernel's first, ours second; the differences are named.
same() {
	local differences
	differences=$(diff "$2" "$3" | sed -n 's/^< /       the kernel: /p; s/^> /       this tree:  /p') || true
	[ -z "$differences" ] || {
		printf 'error: the %s of this tree and of Linux %s differ\n' "$1" "$release"
		head -n 20 <<<"$differences"
		printf '       %s\n' "$4"
		exit 1
	} >&2
}

check() {
	local config=$headers/.config
	[ "$(of "$tree/.config" RUSTC_VERSION_TEXT)" = "$(of "$config" RUSTC_VERSION_TEXT)" ] ||
		die "Linux $release was built by $(of "$config" RUSTC_VERSION_TEXT), this tree by $(of "$tree/.config" RUSTC_VERSION_TEXT)" \
			"metadata of another rustc cannot be used: remove $CACHE/debian-* and try again"
	same configuration <(grep '^CONFIG_' "$config" | sort) <(grep '^CONFIG_' "$tree/.config" | sort) \
		"the compilers or the source are not those of Debian's build"
	rust_exports "$tree" >"$tree/rust-exports"
	[ -s "$tree/rust-exports" ] || die "this tree exports no Rust symbol" "read $tree/build.log"
	kernel_rust_symbols "$headers/Module.symvers" >"$tree/kernel-rust-symbols"
	# Not all that the crates export is mangled: core has memcpy and the like elsewhere.
	same "exported Rust symbols" "$tree/kernel-rust-symbols" <(grep '^_R' "$tree/rust-exports") \
		"modules in Rust made with it would not load"
}

[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || die "this is no Debian for amd64" "give a tree of your own: make KDIR="
possible=
[ "${1:-}" != --possible ] || {
	possible=1
	shift
}
release=${1:-$(newest_release)}
[ -n "$release" ] || die "$SUITE has no Linux $KERNEL_SERIES" "check the network and apt's mirror"
[ -z "$possible" ] || exec "$TOP/tools/build/in-root.sh" --possible
version=$(record "linux-headers-$release" Version)
[ -n "$version" ] ||
	die "$SUITE has no headers of Linux $release" "$(printf 'name a release as uname -r does; the newest there: %s' "$(newest_release)")"
case $release in
"$KERNEL_SERIES".*) ;;
*) die "Linux $release is not $KERNEL_SERIES" "the module and the series are made for Linux $KERNEL_SERIES" ;;
esac

tree=$CACHE/stock-$release-$(key "$version" "$0" "$TOP/tools/build/debian.sh")
echo "$tree"
[ ! -e "$tree/complete" ] || exit 0
exclusive "stock-$release"
[ ! -e "$tree/complete" ] || exit 0

need_disk "$CACHE" 6000
parts=$tree.parts
rm -rf "$tree" "$parts"
mkdir -p "$tree"
fetch "linux-headers-$release"
headers=$parts/usr/src/linux-headers-$release
[ "$(of "$headers/.config" RUST)" = y ] || die "Linux $release was built without Rust" "CONFIG_RUST is not set there"

# The cache's own source, if it came from this package.
source=$CACHE/linux-$version
if [ ! -e "$source.complete" ]; then
	fetch "linux-source-$KERNEL_SERIES"
	say "unpacking Linux source"
	rm -rf "$source"
	mkdir -p "$source"
	tar -C "$source" --strip-components=1 -xf "$parts/usr/src/linux-source-$KERNEL_SERIES.tar.xz"
	touch "$source.complete"
fi
ln -s "$source" "$tree/source"

config=$headers/.config
compiler=$(of "$config" CC_VERSION_TEXT)
rustc=$(of "$config" RUSTC_VERSION_TEXT)
if ! is "$compiler" "${compiler%% *}" || ! is "$rustc" rustc || ! is "$(of "$config" BINDGEN_VERSION_TEXT)" bindgen; then
	gcc=$(sed -n 's/.*-\(gcc-[0-9]*\) .*/\1/p' <<<"$compiler")
	root=$CACHE/debian-${SUITE%-backports}-$(key "$gcc" "${COMPILERS[@]}" "$TOP/tools/build/debian.sh")
	[ -e "$root/complete" ] || say "unpacking the compilers of ${SUITE%-backports}: ${compiler%% (*}, $rustc"
	debian_root "${SUITE%-backports}" "$root" "$gcc-for-host" "${COMPILERS[@]}" ||
		die "cannot fetch the compilers of ${SUITE%-backports}" "check the network and apt's mirror"
	ln -s "$root" "$tree/toolchain"
fi

cp "$headers/.config" "$headers/.kernelvariables" "$tree/"
build() {
	local enter=()
	[ ! -e "$tree/toolchain" ] || enter=("$TOP/tools/build/in-root.sh" "$tree/toolchain")
	"${enter[@]}" make -C "$source" O="$tree" -j"$(nproc)" olddefconfig modules_prepare
}
with_progress "build tree for Linux $release" 250 "$tree/build.log" build ||
	die "no build tree for Linux $release" "read $tree/build.log"
cp "$headers/Module.symvers" "$headers/vmlinux" "$tree/"
check
echo "$version" >"$tree/package-version"
rm -rf "$parts"
touch "$tree/complete"
