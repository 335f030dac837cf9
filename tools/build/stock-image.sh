#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# stock-image.sh KDIR: fetch the kernel that Debian has built of which KDIR, of
# stock-kdir.sh, is the build tree, and print a folder: vmlinuz and modules as they are in
# the packages, but for the modules' compression.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

SUITE=${STOCK_SUITE:-trixie-backports}
MODULES=(irqbypass ccp kvm kvm-amd hwpoison-inject)

kdir=${1:?stock-image.sh KDIR}
release=$(<"$kdir/include/config/kernel.release")
version=$(<"$kdir/package-version")
out=$CACHE/stock-image-$release-$(key "$version" "${MODULES[*]}" "$0")
echo "$out"
[ ! -e "$out/complete" ] || exit 0
exclusive "stock-image-$release"
[ ! -e "$out/complete" ] || exit 0

need_disk "$CACHE" 500
rm -rf "$out" "$out.parts"
mkdir -p "$out"
for package in "linux-binary-$release" "linux-modules-$release"; do
	say "fetching $package $version"
	download_deb "$SUITE" "$package=$version" "$out.parts" ||
		die "cannot download $package $version" "check the network and apt's mirror"
done
folder=$out.parts/usr/lib/modules/$release
cp "$folder/vmlinuz" "$out/"
for name in "${MODULES[@]}"; do
	file=$(find "$folder" -name "$name.ko.xz")
	[ -n "$file" ] || die "linux-modules-$release has no $name.ko.xz" "the packages have changed: see $out.parts"
	xz -dc "$file" >"$out/$name.ko"
done
rm -rf "$out.parts"
touch "$out/complete"
