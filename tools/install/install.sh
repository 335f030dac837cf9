#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# install.sh install KDIR | uninstall | dkms
#	The module for KDIR's kernel, privmemctl, its man pages and completions, the udev
#	rule, and examples, below DESTDIR and PREFIX (/usr/local); or all of it away again.
#	dkms: the module's sources, for `dkms install privmemfd/VERSION`.
# What is installed is listed in PREFIX/share/privmemfd/installed, and that is what goes.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../build/lib.sh
. "$(dirname "$0")/../build/lib.sh"

HERE=$TOP/tools/install
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
SHARE=$PREFIX/share
LIST=$SHARE/privmemfd/installed
TARGET=x86_64-unknown-linux-gnu

# put MODE FILE PATH: install a file, and remember it.
put() {
	install -D -m "$1" "$2" "$DESTDIR$3" ||
		die "cannot write $DESTDIR$3" "be root, or give DESTDIR= a folder that you can write to"
	installed+=("$3")
}

# release_of KDIR
release_of() {
	cat "$1/include/config/kernel.release" 2>/dev/null ||
		die "$1 is no kernel build tree" "give one: make install KDIR=/path/to/build"
}

# After a module has come or gone; a folder for a package is indexed where it is unpacked.
index_modules() {
	[ -n "$DESTDIR" ] || depmod "$1"
}

do_install() {
	local release module=${MO:-$TOP}/privmemfd.ko file
	release=$(release_of "$1")
	[ -f "$module" ] || die "no $module" "build it first: make KDIR=$1"
	# Another kernel's module would be refused when it is loaded, and not before.
	case $(modinfo -F vermagic "$module") in
	"$release "*) ;;
	*) die "$module is for Linux $(modinfo -F vermagic "$module" | cut -d' ' -f1), not $release" "build it for that: make KDIR=$1" ;;
	esac
	(cd "$TOP/tools" && cargo build --locked --release --quiet --target "$TARGET" --target-dir "$TOP/build/cargo" -p privmemctl) ||
		die "privmemctl does not build" "read the messages above"
	local programs=$TOP/build/cargo/$TARGET/release
	generated=$(mktemp -d) # not local: the trap comes later
	trap 'rm -rf "$generated"' EXIT
	"$programs/privmemctl" generate "$generated" ||
		die "privmemctl writes no man pages" "read the message above"

	[ ! -e "$DESTDIR$LIST" ] || do_uninstall
	installed=()
	put 644 "$module" "/lib/modules/$release/updates/privmemfd.ko"
	put 755 "$programs/privmemctl" "$PREFIX/bin/privmemctl"
	for file in "$generated"/man/man1/*.1; do
		put 644 "$file" "$SHARE/man/man1/${file##*/}"
	done
	for file in "$generated"/completions/bash/*; do
		put 644 "$file" "$SHARE/bash-completion/completions/privmemctl"
	done
	for file in "$generated"/completions/zsh/*; do
		put 644 "$file" "$SHARE/zsh/site-functions/${file##*/}"
	done
	for file in "$generated"/completions/fish/*; do
		put 644 "$file" "$SHARE/fish/vendor_completions.d/${file##*/}"
	done
	put 644 "$TOP/include/uapi/linux/privmemfd.h" "$PREFIX/include/linux/privmemfd.h"
	put 644 "$HERE/70-privmemfd.rules" /etc/udev/rules.d/70-privmemfd.rules
	put 644 "$HERE/modules-load.conf" "$SHARE/doc/privmemfd/examples/modules-load.d/privmemfd.conf"
	put 644 "$HERE/modprobe.conf" "$SHARE/doc/privmemfd/examples/modprobe.d/privmemfd.conf"
	mkdir -p "$DESTDIR${LIST%/*}"
	printf '%s\n' "${installed[@]}" "$LIST" >"$DESTDIR$LIST"
	index_modules "$release"
	say "installed for Linux $release; modprobe privmemfd loads it, after KVM"
}

do_uninstall() {
	local file release=
	[ -e "$DESTDIR$LIST" ] || die "nothing is installed below ${DESTDIR:-/}" "no $DESTDIR$LIST; PREFIX= and DESTDIR= must be those of make install"
	while read -r file; do
		case $file in
		/lib/modules/*) release=$(cut -d/ -f4 <<<"$file") ;;
		esac
		rm -f "$DESTDIR$file"
		# Folders that it was alone in.
		(cd "${DESTDIR:-/}" && rmdir -p --ignore-fail-on-non-empty "$(dirname ".$file")" 2>/dev/null) || true
	done < <(cat "$DESTDIR$LIST")
	[ -z "$release" ] || index_modules "$release"
}

do_dkms() {
	local version folder
	version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' "$TOP/dkms.conf")
	folder=$DESTDIR/usr/src/privmemfd-$version
	[ ! -e "$folder" ] || die "$folder is there already" "dkms remove privmemfd/$version --all; rm -r $folder"
	mkdir -p "$folder" || die "cannot write $folder" "be root, or give DESTDIR="
	(cd "$TOP" && cp -r --parents Kbuild Makefile LICENSE dkms.conf src rust include tools/build/check-kdir.sh tools/build/in-root.sh "$folder")
	find "$folder" \( -name '*.o' -o -name '.*.cmd' -o -name '*.rmeta' -o -name ffi_generated.rs \) -delete
	say "now: dkms install privmemfd/$version"
}

case ${1:-} in
install) do_install "${2:?KDIR}" ;;
uninstall) do_uninstall ;;
dkms) do_dkms ;;
*) die "install.sh install KDIR | uninstall | dkms" ;;
esac
