#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# mutations.sh [WORD]: break the emulated TDX host, KVM's part or the module in one
# way after the other, and see that the tests notice. With WORD: only
# those whose names contain it. Leaves the sources alone.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../vm/prepare.sh
. "$(dirname "$0")/../vm/prepare.sh"
# shellcheck source-path=SCRIPTDIR source=host.sh
. "$(dirname "$0")/host.sh"
# shellcheck source-path=SCRIPTDIR source=../vm/tdx-mutants.sh
. "$TOP/tools/vm/tdx-mutants.sh"

HERE=$TOP/tools/bochs-tdx
OUT=$BUILD/tdx-host-mutations
COPY=$OUT/source
only=${1:-}
failed=0
# What of td-test is run; FINALIZED for the mutant that only a race shows, which by
# itself is no proof of the others; GUEST for what only the guest sees.
MOVES=(moves 2 2 2)
FINALIZED=(privmemfd 2 2 2 finalize_raced counters)
GUEST=(privmemfd 2 2 2 guest_faults spec_ctrl interrupts_while_moving counters)
TESTS=("${MOVES[@]}")
# What is run: moves or linux.
RUN=moves

# copy FILES...: from the top of the checkout, to be broken.
copy() {
	rm -rf "$COPY"
	mkdir -p "$COPY"
	(cd "$TOP" && cp -r --parents "$@" "$COPY/")
	find "$COPY" -name target -type d -prune -exec rm -rf {} +
}

# broken NAME FILE PERL_EXPRESSION: the expression sees the whole file.
broken() {
	perl -0pi -e "$3" "$COPY/$2"
	cmp -s "$TOP/$2" "$COPY/$2" || return 0
	echo "not applied: $1"
	failed=1
	return 1
}

unbuildable() {
	echo "does not build: $1 ($OUT/build.log)"
	failed=1
}

# wanted NAME
wanted() { case $1 in *"$only"*) ;; *) return 1 ;; esac }

# moves BOCHS KVM_MODULES MODULE: TDs whose memory moves, and what the TDX module
# saw of it.
moves() {
	local status=0
	KVM_MODULES=$2 MODULE=$3 tdx_host "$1" "$OUT/host" 200 -- privmemfd "${TESTS[@]}" >"$OUT/host.log" 2>&1 || status=$?
	"$HERE/summary.py" "$OUT/host.json" 1 "host=$OUT/host" 2>"$OUT/summary.log" || status=$((status ? status : 1))
	return "$status"
}

# The Linux TD, as make td has it, with few moves.
linux() {
	local status=0
	rm -f "$OUT/host.json" "$OUT/td.json"
	KVM_MODULES=$2 MODULE=$3 linux_td "$1" "$OUT/host" 900 1 -- --target 1 >"$OUT/host.log" 2>&1 || status=$?
	[ ! -f "$OUT/host/host.json" ] ||
		"$HERE/td-json.py" "$OUT/host" "$PARTS" "$OUT/td.json" 1 2>"$OUT/summary.log" || status=1
	return "$status"
}

# noticed: by which case, or else by what.
noticed() {
	local case reason
	case=$(grep -a -m1 '^not ok' "$OUT/host.log" || true)
	reason=$(grep -a -m1 -B1 '^not ok' "$OUT/host.log" | sed -n 's/^# //p' || true)
	[ -n "$case" ] || case=$(sed -n '1s/^\(host\|problem\): //p' "$OUT/summary.log")
	[ -n "$case" ] || case=$(grep -a -m1 -o 'PROBLEM: .*' "$OUT/host.log" || true)
	[ -n "$case" ] || case=$(grep -a -m1 -E 'WARNING:|BUG:|panic|TDX module' "$OUT/host.log" || true)
	echo "${case:-status $1}${reason:+: $reason}"
}

# verdict NAME BOCHS KVM_MODULES MODULE
verdict() {
	local name=$1 status=0
	shift
	: >"$OUT/summary.log"
	"$RUN" "$@" || status=$?
	case $status in
	0)
		echo "NOT CAUGHT:  $name"
		failed=1
		;;
	126)
		echo "did not run: $name ($OUT/host.log)"
		failed=1
		;;
	*) echo "caught:      $name ($(noticed "$status"))" ;;
	esac
}

# emulator NAME FILE PERL_EXPRESSION
emulator() {
	local bochs
	wanted "$1" || return 0
	copy tools/bochs-tdx tools/tdx-emu tools/build
	# The VMM is not built again.
	rm -r "$COPY/tools/bochs-tdx/td"
	ln -s "$HERE/td" "$COPY/tools/bochs-tdx/td"
	mkdir -p "$COPY/build" "$OUT/cargo-model"
	ln -s "$BUILD/cargo-td" "$OUT/cargo-model" "$COPY/build/"
	broken "$1" "$2" "$3" || return 0
	bochs=$("$COPY/tools/bochs-tdx/build.sh" 2>"$OUT/build.log") || {
		unbuildable "$1"
		return
	}
	verdict "$1" "$bochs" "$KVM_MODULES" "$MODULE"
	rm -rf "$bochs"
}

# kvm NAME FILE PERL_EXPRESSION: FILE is a patch.
kvm() {
	wanted "$1" || return 0
	copy tools/build patches include
	broken "$1" "$2" "$3" || return 0
	"$COPY/tools/build/kvm-modules.sh" "$KERNEL" "$(readlink -f "$CACHE/linux")" "$OUT/kvm" \
		>"$OUT/build.log" 2>&1 || {
		unbuildable "$1"
		return
	}
	verdict "$1" "$BOCHS" "$OUT/kvm" "$MODULE"
}

# module NAME FILE PERL_EXPRESSION
# shellcheck disable=SC2317 # called by tdx_mutants
module() {
	wanted "$1" || return 0
	copy Kbuild Makefile rust src include
	broken "$1" "$2" "$3" || return 0
	rm -rf "$OUT/module"
	mkdir -p "$OUT/module"
	kmake "$KERNEL" M="$COPY" MO="$OUT/module" modules >"$OUT/build.log" 2>&1 || {
		unbuildable "$1"
		return
	}
	verdict "$1" "$BOCHS" "$KVM_MODULES" "$OUT/module/privmemfd.ko"
}

prepare plain
BOCHS=$("$HERE/build.sh")
mkdir -p "$OUT"
# unbroken: the tests pass.
unbroken() {
	moves "$BOCHS" "$KVM_MODULES" "$MODULE" ||
		die "the tests fail with nothing broken: $(noticed $?)" "run tools/bochs-tdx/run.sh first"
}

TESTS=("${FINALIZED[@]}")
unbroken
TESTS=("${GUEST[@]}")
unbroken
TESTS=("${MOVES[@]}")
unbroken

model=tools/tdx-emu/model/src
relocate=patches/0010-KVM-TDX-Let-the-provider-of-private-memory-move-page.patch
emulator "the TDX module forgets to flush for a new epoch" $model/epoch.rs \
	's/self\.flush_translations\(lp, td\);\n            \}/let _ = lp;\n            }/'
emulator "the CPU ignores the TDX module's INVEPT" tools/bochs-tdx/cpu/tdx.cc 's/tdx_tlb_invept\(lp, eptp\);//'
kvm "KVM does not kick vCPUs" $relocate \
	's/kvm_make_all_cpus_request\(tdx_relocation_to_kvm\(td\), KVM_REQ_OUTSIDE_GUEST_MODE\);/(void)td;/'
TESTS=("${GUEST[@]}")
emulator "a TD changes EFER as it likes" $model/leaf/msr.rs 's/Some\(new\)\) if \(new \^ current\(\)\)[^=]*== 0/Some(_))/'
emulator "a TD's addresses are of any width" tools/bochs-tdx/cpu/tdx_exit.cc 's/if \(gpa >> \(v->ctl\.shared_bit \+ 1\)\)/if (false)/'
emulator "a TD leaves its SPEC_CTRL behind" tools/bochs-tdx/cpu/tdx_enter.cc 's/cpu->msr\.ia32_spec_ctrl = e->spec_ctrl;//'
emulator "the length of an INT that is repeated is lost" tools/bochs-tdx/cpu/tdx_exit.cc \
	's/VMwrite32\(VMCS_32BIT_VMEXIT_INSTRUCTION_LENGTH, .*?\);//'
TESTS=("${FINALIZED[@]}")
kvm "KVM moves pages of a TD that is being built" $relocate \
	's/mutex_trylock\(&kvm->slots_lock\);\n\+\t\tif \(!locked\)/mutex_trylock(&kvm->slots_lock);\n+\t\tif (false)/'
TESTS=("${MOVES[@]}")
tdx_mutants module

# What a Linux TD sees, and nothing that was written here.
RUN=linux
linux_td_parts
linux "$BOCHS" "$KVM_MODULES" "$MODULE" || die "the Linux TD fails with nothing broken" "run make td first"
emulator "Linux TD: CPUID does not follow XFAM" $model/leaf/cpuid.rs 's/&& xfam & m\.2 != m\.2/&& false/'
emulator "Linux TD: RTMR.EXTEND does nothing" $model/leaf/guest_measure.rs \
	's/self\.tdcs_wr\(&v\.td, at\(i\), w\);/let _ = (i, w);/'
emulator "Linux TD: the CPU ignores the TDX module's INVEPT" tools/bochs-tdx/cpu/tdx.cc 's/tdx_tlb_invept\(lp, eptp\);//'
# shellcheck disable=SC2317 # called by tdx_mutants
linux_module() {
	case $1 in
	"no TRACK" | "no kick" | "copy instead of RELOCATE") module "Linux TD: $1" "$2" "$3" ;;
	esac
}
tdx_mutants linux_module
exit "$failed"
