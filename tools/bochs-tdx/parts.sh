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
STATE=$CACHE/apt/td
OUT=$CACHE/td-parts-$(key "$QEMU" "$FIRMWARE" "$KERNEL" "$0" "$(dirname "$0")/parts.py")

# unavailable MESSAGE [ADVICE]: end like die.
unavailable() {
	(die "$@") || exit 4
}

# apt COMMAND...: with a private state that knows trixie and its backports, on the
# machine's own mirror.
apt() {
	"$1" -o "Dir::State=$STATE" -o "Dir::State::lists=$STATE/lists" -o "Dir::State::status=$STATE/status" \
		-o "Dir::Cache=$STATE/cache" -o "Dir::Etc::sourcelist=$STATE/sources.list" \
		-o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
		-o APT::Sandbox::User=root -o APT::Default-Release=trixie-backports -o APT::Install-Recommends=false -o APT::Architecture=amd64 "${@:2}"
}

apt_state() {
	local site suite
	# shellcheck disable=SC2016 # apt's own placeholder
	site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' |
		grep -v security | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
	[ -n "$site" ] || unavailable "no Debian mirror in apt's sources" "add one that has trixie"
	rm -rf "$STATE"
	mkdir -p "$STATE"/{lists/partial,cache/archives/partial}
	for suite in trixie trixie-backports; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main"
	done >"$STATE/sources.list"
	: >"$STATE/status"
	apt apt-get update -qq >&2 || unavailable "no list of trixie's packages to be had" "check the network"
}

# version PACKAGE WANTED: that one, or the newest.
version() {
	apt apt-cache madison "$1" | awk -F'|' -v want="$2" '{ gsub(/ /, "", $2) }
		$2 == want { found = $2 } NR == 1 { newest = $2 } END { print found ? found : newest }'
}

# fetch PACKAGE VERSION DIR [DEPENDS]: unpack a package, with DEPENDS all it needs.
fetch() {
	local dir deb
	say "fetching $1 $2"
	dir=$(mktemp -d "$CACHE/deb.XXXXXX")
	if [ -n "${4:-}" ]; then
		apt apt-get install -y -qq --download-only -o "Dir::Cache::archives=$dir" "$1=$2" >&2
	else
		(cd "$dir" && apt apt-get download -qq "$1=$2" >&2)
	fi || {
		rm -rf "$dir"
		unavailable "cannot download $1 $2" "check the network and the mirror"
	}
	mkdir -p "$3"
	for deb in "$dir"/*.deb; do dpkg-deb -x "$deb" "$3"; done
	rm -rf "$dir"
}

if [ ! -e "$OUT/complete" ]; then
	exclusive td-parts
fi
if [ ! -e "$OUT/complete" ]; then
	need_disk "$CACHE" 1500
	apt_state
	image=$(apt apt-cache search --names-only '^linux-(binary|image)-[0-9].*-cloud-amd64$' | awk '{ print $1 }' | sort -V)
	image=$({ grep "$KERNEL" <<<"$image" || true; echo "$image"; } | { grep -- "^linux-binary" || true; } | head -n 1)
	[ -n "$image" ] || unavailable "no cloud kernel in trixie's backports" "put a kernel image at $OUT/vmlinuz"
	qemu=$(version qemu-system-x86 "$QEMU")
	firmware=$(version ovmf "$FIRMWARE")
	kernel=$(version "$image" none)
	rm -rf "$OUT" "$OUT.root"
	mkdir -p "$OUT"
	fetch qemu-system-x86 "$qemu" "$OUT.root" depends
	fetch ovmf "$firmware" "$OUT.root"
	fetch "$image" "$kernel" "$OUT.root"
	fetch "${image/-binary-/-modules-}" "$kernel" "$OUT.root"
	"$(dirname "$0")/parts.py" "$OUT.root" "$OUT" "$qemu" "$firmware" "$image" "$kernel" ||
		unavailable "a part is not where it was" "look into $OUT.root"
	rm -rf "$OUT.root"
	touch "$OUT/complete"
fi
echo "$OUT"
