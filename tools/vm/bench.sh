#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make bench: what a move costs, as ratios of one run, and what a vCPU waits. Leaves
# build/bench.json, and pictures in build/bench/.
#
# BASE=REV measures the modules of that revision as well, in the same machine, and says
# which figures are worse than theirs by more than 5 %.
#
# PROFILE=1 says instead where the instructions go, by function: build/profile.json,
# and a flame graph of each measurement in build/bench/profile/.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

INFERNO_VERSION=0.12.8
OUT=$BUILD/bench
BASE_TREE=$BUILD/bench-base
# More files for the machine.
FILES=()
# Memory of the machine for a file of 12 GiB. The pages of the file have no content, so the
# host gives it a fraction of that. No node has room for the file, so pages of a full one move.
LARGE=16G

# flame_graphs: of the stacks in OUT/profile. A program of its own, for its licence does
# not go with ours.
flame_graphs() {
	local root=$CACHE/inferno stacks
	if [ ! -x "$root/bin/inferno-flamegraph" ]; then
		say "building inferno $INFERNO_VERSION, which draws flame graphs"
		cargo install --quiet --locked --root "$root" inferno --version "$INFERNO_VERSION" >&2 ||
			die "cannot build inferno $INFERNO_VERSION" "check that cargo can reach its registry"
	fi
	for stacks in "$OUT"/profile/*.folded; do
		"$root/bin/inferno-flamegraph" --countname samples --title "$(basename "$stacks" .folded)" \
			"$stacks" >"${stacks%.folded}.svg"
	done
}

# build_base REV: its modules, for the kernel that this revision runs on, go to /base.
build_base() {
	local kvm
	git -C "$TOP" rev-parse --verify --quiet "$1^{commit}" >/dev/null ||
		die "BASE=$1: no such revision" "name a commit, a tag or a branch"
	say "modules of $1"
	rm -rf "$BASE_TREE"
	mkdir -p "$BASE_TREE/tree" "$BASE_TREE/module" "$BASE_TREE/test-modules"
	git -C "$TOP" archive "$1" | tar -x -C "$BASE_TREE/tree"
	make -s --no-print-directory -C "$BASE_TREE/tree" module KDIR="$KDIR" MO="$BASE_TREE/module" \
		>"$BASE_TREE/module.log" 2>&1 || die "the module of $1 does not build" "read $BASE_TREE/module.log"
	"$BASE_TREE/tree/tools/build/test-modules.sh" "$KDIR" "$BASE_TREE/test-modules" \
		KBUILD_EXTRA_SYMBOLS="$BASE_TREE/module/Module.symvers" ||
		die "the test modules of $1 do not build" "read the messages above"
	kvm=$("$BASE_TREE/tree/tools/build/kvm-modules.sh" "$KERNEL" "$(readlink -f "$CACHE/linux")") ||
		die "the KVM modules of $1 do not build" "read the messages above"
	FILES+=("$BASE_TREE/module/privmemfd.ko:/base/" "$BASE_TREE/test-modules/tdxemu.ko:/base/"
		"$BASE_TREE/test-modules/tdhost.ko:/base/" "$kvm/kvm.ko:/base/kvm/" "$kvm/kvm-amd.ko:/base/kvm/")
}

# run_on OUT: the machine that is set up.
run_on() {
	local status=0
	boot bench "$1" 1200 "${FILES[@]}" || status=$?
	if [ "$status" -ne 0 ] || [ ! -f "$1/bench.json" ]; then
		die "the benchmark failed (exit status $status)" "read its output above and $(kernel_log "$1")"
	fi
	"$TOP/tools/vm/kernel-reports" "$(kernel_log "$1")" || exit 1
}

[ -z "${PROFILE:-}" ] || [ -z "${BASE:-}" ] ||
	die "BASE=$BASE with PROFILE=$PROFILE: a profile is not compared" "leave one of them away"

prepare plain
# Instructions are the same on every machine and under any load.
VM_OPTIONS+=(--instructions)
name=bench
if [ -n "${PROFILE:-}" ]; then
	name=profile
	JOB_ARGUMENTS=(--rounds 2 --profile /out/profile --only "populate,request,mapped,core,tdx")
elif [ -n "${BASE:-}" ]; then
	build_base "$BASE"
fi
result=$BUILD/$name.json
rm -f "$result"
if [ "$name" = bench ]; then
	say "booting a VM of $LARGE whose clock counts instructions: the largest file"
	# A subshell: the other machine is as it was.
	(MEMORY=$LARGE JOB_ARGUMENTS=(large) && run_on "$OUT-large") || exit 1
	for file in "$OUT-large"/*.json; do
		FILES+=("$file:/earlier/")
	done
fi
say "booting a VM whose clock counts instructions"
run_on "$OUT"
cp "$OUT/bench.json" "$result"
if [ "$name" = profile ]; then
	flame_graphs
	say "$result, and a flame graph of each measurement: $OUT/profile/*.svg"
	exit
fi
compare=()
[ -z "${BASE:-}" ] || compare=(--base "$OUT/base.json")
"$PROGRAMS/privmemfd-bench-report" "$result" --svg "$OUT" "${compare[@]}"
say "$result; pictures: $OUT/*.svg"
