# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Shared by the scripts under tools/: messages, the cache folder, progress.
# Source it after `set -euo pipefail`.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Everything slow to make lives here, outside the checkout, keyed by its inputs.
CACHE=${PRIVMEMFD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/privmemfd}
LLVM_VERSION=19
KERNEL_SERIES=7.3
export CACHE LLVM_VERSION KERNEL_SERIES TOP
# What the make that has called was told (-s, -j, V=1) is not meant for those called here.
unset MAKEFLAGS

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
# die MESSAGE [ADVICE]: end with what failed and what to do about it.
die() {
	printf 'error: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf '       %s\n' "$2" >&2
	exit 1
}

# need_disk DIR MIB: refuse to start what a full disk would break half-way.
need_disk() {
	local free
	mkdir -p "$1" || die "cannot create $1" "set PRIVMEMFD_CACHE to a folder you can write to"
	free=$(df -Pm "$1" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$2" ] ||
		die "$1 has $free MiB free, this step needs $2 MiB" \
			"free some space, or set PRIVMEMFD_CACHE to a folder on a larger disk"
}

# exclusive NAME: two runs at a time must not build the same thing; until this
# script ends, others wait for it.
exclusive() {
	mkdir -p "$CACHE"
	exec 9>"$CACHE/$1.lock"
	flock -n 9 && return 0
	say "waiting for another run that builds $1"
	flock 9
}

# key ARGS...: short digest of files (by content) and words (verbatim).
key() {
	local x
	for x in "$@"; do
		if [ -f "$x" ]; then cat "$x"; else printf '%s\n' "$x"; fi
	done | sha256sum | cut -c1-16
}

# with_progress LABEL TOTAL LOG COMMAND...: run quietly into LOG, say every few
# seconds how many of about TOTAL lines of it are there; on failure show its end.
with_progress() {
	local label=$1 total=$2 log=$3 pid start last=-1 n
	shift 3
	start=$SECONDS
	"$@" >"$log" 2>&1 &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		sleep 1
		n=$(wc -l <"$log")
		if [ $(((SECONDS - start) % 15)) -eq 0 ] && [ $((SECONDS - start)) -ne "$last" ]; then
			last=$((SECONDS - start))
			say "$label: step $n of about $total, ${last} s"
		fi
	done
	if ! wait "$pid"; then
		tail -n 25 "$log" >&2
		return 1
	fi
	say "$label: done in $((SECONDS - start)) s"
}

# toolchain_id: the words that decide whether compiled output may be reused.
toolchain_id() {
	rustc --version
	"${KERNEL_CC:-clang-$LLVM_VERSION}" --version | head -n 1
	"$(bindgen_bin)" --version
}

bindgen_bin() {
	if [ -x "$CACHE/bindgen/bin/bindgen" ]; then
		echo "$CACHE/bindgen/bin/bindgen"
	else
		type -P bindgen || echo bindgen
	fi
}

# qemu_bin: what provision.sh has found or fetched, or what QEMU= says.
qemu_bin() {
	if [ -n "${QEMU:-}" ]; then
		echo "$QEMU"
	elif [ -x "$CACHE/qemu/qemu-system-x86_64" ]; then
		echo "$CACHE/qemu/qemu-system-x86_64"
	else
		echo qemu-system-x86_64
	fi
}

# clang_of KDIR: version of the clang that a kernel was built with; nothing for gcc.
clang_of() {
	sed -n 's/^CONFIG_CC_VERSION_TEXT=.*clang version \([0-9]*\)\..*/\1/p' "$1/include/config/auto.conf"
}

# kmake DIR ARGS...: make in a kernel's source, with this project's toolchain (KERNEL_CC=gcc:
# with the machine's gcc for C), or in
# a kernel's build folder, with the compiler that has built it: the machine's, or that
# of the unpacked Debian that the folder names (stock-kdir.sh).
kmake() {
	local src=$1 clang=${KERNEL_CC:-$LLVM_VERSION} llvm=()
	clang=${clang#gcc}
	shift
	if [ -e "$src/toolchain" ]; then
		"$TOP/tools/build/in-root.sh" "$src/toolchain" make -C "$src" \
			KBUILD_BUILD_USER=privmemfd KBUILD_BUILD_HOST=localhost "$@"
		return
	fi
	[ ! -f "$src/include/config/auto.conf" ] || clang=$(clang_of "$src")
	if [ -n "$clang" ]; then
		if command -v "clang-$clang" >/dev/null; then llvm=("LLVM=-$clang"); else llvm=(LLVM=1); fi
	fi
	RUST_LIB_SRC=$CACHE/rust-src LIBCLANG_PATH=/usr/lib/llvm-${clang:-$LLVM_VERSION}/lib \
		make -C "$src" "${llvm[@]}" BINDGEN="$(bindgen_bin)" \
		KBUILD_BUILD_USER=privmemfd KBUILD_BUILD_HOST=localhost "$@"
}

# shellcheck source-path=SCRIPTDIR source=debian.sh
. "$TOP/tools/build/debian.sh"
