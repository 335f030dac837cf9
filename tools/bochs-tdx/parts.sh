#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# parts.sh: fetch what an unmodified Linux TD is made of, from Debian's packages, and
# print the folder: qemu/ (the emulator and its libraries), OVMF.fd, vmlinuz, modules/
# and parts.json with the versions. Nothing is installed. Exits with 4, kselftest's SKIP,
# if a part is not to be had.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../build/lib.sh
. "$(dirname "$0")/../build/lib.sh"

# Known to work; what is asked for if a mirror has moved on is the newest of the suite.
QEMU=1:11.1.3+ds-1~bpo13+1
FIRMWARE=2025.02-8+deb13u1
KERNEL=7.3.4
SUITE=trixie-backports
OUT=$CACHE/td-parts-$(key "$QEMU" "$FIRMWARE" "$KERNEL" "$0" "$(dirname "$0")/parts.py")

# unavailable MESSAGE [ADVICE]: end like die.
unavailable() {
	(die "$@") || exit 4
}

# version PACKAGE WANTED: that one, or the newest that the suite has.
version() {
	private_apt "$SUITE" apt-cache madison "$1" | awk -F'|' -v want="$2" '{ gsub(/ /, "", $2) }
		$2 == want { found = $2 } NR == 1 { newest = $2 } END { print found ? found : newest }'
}

# fetch COMMAND PACKAGE VERSION: into $OUT.root.
fetch() {
	say "fetching $2 $3"
	"$1" "$SUITE" "$2=$3" "$OUT.root" ||
		unavailable "cannot download $2 $3" "check the network and the mirror"
}

# cloud_kernel: the package of the kernel, of this version or of the newest.
cloud_kernel() {
	local names
	names=$(private_apt "$SUITE" apt-cache search --names-only '^linux-binary-[0-9].*-cloud-amd64$' |
		awk '{ print $1 }' | sort -V)
	grep -m 1 -F -- "-$KERNEL+" <<<"$names" || tail -n 1 <<<"$names"
}

if [ ! -e "$OUT/complete" ]; then
	exclusive td-parts
fi
if [ ! -e "$OUT/complete" ]; then
	need_disk "$CACHE" 1500
	image=$(cloud_kernel)
	[ -n "$image" ] || unavailable "no cloud kernel in $SUITE" "check that apt's mirror has that suite"
	qemu=$(version qemu-system-x86 "$QEMU")
	firmware=$(version ovmf "$FIRMWARE")
	kernel=$(version "$image" none)
	rm -rf "$OUT" "$OUT.root"
	mkdir -p "$OUT"
	fetch download_closure qemu-system-x86 "$qemu"
	fetch download_deb ovmf "$firmware"
	fetch download_deb "$image" "$kernel"
	fetch download_deb "${image/-binary-/-modules-}" "$kernel"
	"$(dirname "$0")/parts.py" "$OUT.root" "$OUT" "$qemu" "$firmware" "$image" "$kernel" ||
		unavailable "a part is not where it was" "look into $OUT.root"
	rm -rf "$OUT.root"
	touch "$OUT/complete"
fi
echo "$OUT"
