#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# mutations.sh [WORD]: break the emulated TDX host, KVM's part or the module in one
# way after the other, and see that the tests notice. With WORD: only
# those whose names contain it. Leaves the sources alone.
# shellcheck disable=SC2016 # Perl expands it
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
# What of td-test is run. The others are for what moves alone do not show: FINALIZED and
# STEADY have a module that watches KVM, GUEST is for what only the guest sees, LOST for
# pages that do not come back, BUG for a mirror page table that is wrong.
MOVES=(moves 2 2 2)
FINALIZED=(faults 2 2 2 exclusive_calls fault_counters)
STEADY=(faults 2 2 2 rebooting_host provider_calls invalidations fault_counters)
GUEST=(privmemfd 2 2 2 guest_faults spec_ctrl interrupts_while_moving counters)
LOST=(lost 2 2 2 lost_td lost_td_with_blocked_pages holes_of_a_lost_td fault_counters_with_lost_tds)
BUG=(bugs 2 2 2 page_elsewhere fault_counters_with_bugs)
TESTS=("${MOVES[@]}")
# What is run: cases, moves or linux.
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

declare -A proven

# wanted NAME: it is, and the tests that are to notice it pass with nothing broken.
wanted() {
	local what="$RUN ${CPUS:-} ${TESTS[*]}"
	case $1 in *"$only"*) ;; *) return 1 ;; esac
	[ -z "${proven[$what]:-}" ] || return 0
	: >"$OUT/summary.log"
	"$RUN" "$BOCHS" "$KVM_MODULES" "$MODULE" ||
		die "with nothing broken this fails: $what ($(noticed $?))" "run tools/bochs-tdx/run.sh or make td first"
	proven[$what]=1
}

# cases BOCHS KVM_MODULES MODULE: what TDs see.
# shellcheck disable=SC2317 # called as $RUN
cases() {
	KVM_MODULES=$2 MODULE=$3 tdx_host "$1" "$OUT/host" 200 --add "$TEST_MODULES/tdxfaults.ko:/modules/" \
		--add "$TEST_MODULES/tdxwitness.ko:/modules/" -- privmemfd "${TESTS[@]}" >"$OUT/host.log" 2>&1
}

# moves BOCHS KVM_MODULES MODULE: TDs whose memory moves, and what the TDX module
# saw of it.
# shellcheck disable=SC2317 # called as $RUN
moves() {
	local status=0
	cases "$@" || status=$?
	"$HERE/summary.py" "$OUT/host.json" 1 "host=$OUT/host" 2>"$OUT/summary.log" || status=$((status ? status : 1))
	return "$status"
}

# The Linux TD, as make td has it, with little work; TESTS says how far it goes.
# shellcheck disable=SC2317 # called as $RUN
linux() {
	local status=0
	[ -n "${PARTS:-}" ] || linux_td_parts
	rm -f "$OUT/host.json" "$OUT/td.json"
	KVM_MODULES=$2 MODULE=$3 linux_td "$1" "$OUT/host" 600 "$CPUS" -- --vcpus "$CPUS" --append td.mib=16 --target 1 --patience 120 \
		"${TESTS[@]}" >"$OUT/host.log" 2>&1 || status=$?
	[ ! -f "$OUT/host/host.json" ] ||
		"$HERE/td-json.py" "$OUT/host" "$PARTS" "$OUT/td.json" 0 2>"$OUT/summary.log" || status=1
	return "$status"
}

# noticed: by which case, or else by what.
noticed() {
	local case reason
	case=$(grep -a -m1 '^not ok' "$OUT/host.log" || true)
	reason=$(grep -a -m1 -B1 '^not ok' "$OUT/host.log" | sed -n 's/^# //p' || true)
	[ -n "$case" ] || case=$(sed -n '1s/^\(host\|problem\): //p' "$OUT/summary.log")
	[ -n "$case" ] || case=$(grep -a -m1 -o 'PROBLEM: .*' "$OUT/host.log" || true)
	[ -n "$case" ] || case=$(sed -n '/^Bochs is exiting/{n;s/^\[[^]]*\] *//p}' "$OUT/host.log")
	[ -n "$case" ] || case=$(grep -a -E 'WARNING:|BUG:|panic|TDX module' "$OUT/host.log" | grep -a -m1 -v '^ok' || true)
	[ -n "$case" ] || case=$(grep -a -m1 -o 'error: .*' "$OUT/host.log" || true)
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

# without FIX TESTS...: Bochs lacks one patch of fixes/, which TESTS show; with it they pass
# among the caller's. The other patches and the objects are the real one's.
without() {
	local name="Bochs without ${1%%-*}" fix=$HERE/fixes/$1 src=$OUT/bochs-source out=$OUT/bochs
	wanted "$name" || return 0
	local TESTS=("${@:2}")
	if [ ! -e "$src/copied" ]; then
		rm -rf "$src"
		cp -a "$("$HERE/build.sh" --source)" "$src"
		touch "$src/copied"
	fi
	cp "$HERE"/cpu/* "$TOP/tools/tdx-emu/capi/include/tdx_emu.h" "$src/cpu/"
	cp "$(find -H "$BUILD/cargo-model" -path '*/release/libtdx_emu_capi.a' -print -quit)" "$src/"
	rm -f "$src"/cpu/tdx*.o "$src/bochs"
	if ! patch -R -s -d "$src" -p1 <"$fix" ||
		! make -C "$src" -j"$(nproc)" LIBS="$src/libtdx_emu_capi.a -lpthread -ldl" >"$OUT/build.log" 2>&1; then
		rm -rf "$src"
		unbuildable "$name"
		return 0
	fi
	patch -s -d "$src" -p1 <"$fix"
	rm -rf "$out"
	mkdir -p "$out"
	cp -r "$src/bochs" "$BOCHS/roms" "$BOCHS/td-test" "$out/"
	verdict "$name" "$out" "$KVM_MODULES" "$MODULE"
}

# With the call of the architecture that only a KVM for SEV-SNP has; TDX does nothing there.
KVM_FLAGS=KCFLAGS=-DCONFIG_HAVE_KVM_ARCH_GMEM_INVALIDATE=1

# kvm NAME FILE PERL_EXPRESSION: FILE is one of KVM's, with our patches. What depends on
# it is built again, in a place where the rest has been built.
kvm() {
	local overlay=$OUT/kvm/overlay objects=$OUT/kvm/overlay/arch/x86/kvm status=0
	wanted "$1" || return 0
	"$TOP/tools/build/kvm-modules.sh" "$KERNEL" "$(readlink -f "$CACHE/linux")" "$OUT/kvm" -- "$KVM_FLAGS" \
		>"$OUT/build.log" 2>&1 || die "KVM's modules do not build" "read $OUT/build.log"
	cp "$overlay/$2" "$OUT/unbroken"
	perl -0pi -e "$3" "$overlay/$2"
	if cmp -s "$overlay/$2" "$OUT/unbroken"; then
		echo "not applied: $1"
		failed=1
		return
	fi
	kmake "$KERNEL" M="$objects" -j"$(nproc)" "$KVM_FLAGS" modules >"$OUT/build.log" 2>&1 || status=$?
	cp "$OUT/unbroken" "$overlay/$2"
	if [ "$status" -eq 0 ]; then
		verdict "$1" "$BOCHS" "$objects" "$MODULE"
	else
		unbuildable "$1"
	fi
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
model=tools/tdx-emu/model/src
tdx=arch/x86/kvm/vmx/tdx.c
emulator "the TDX module forgets to flush for a new epoch" $model/epoch.rs \
	's/self\.flush_translations\(lp, td\);\n            \}/let _ = lp;\n            }/'
emulator "the CPU ignores the TDX module's INVEPT" tools/bochs-tdx/cpu/tdx.cc 's/tdx_tlb_invept\(lp, eptp\);//'
kvm "KVM does not kick vCPUs" $tdx \
	's/kvm_make_all_cpus_request\(tdx_relocation_to_kvm\(td\), KVM_REQ_OUTSIDE_GUEST_MODE\);/(void)td;/'
TESTS=("${GUEST[@]}")
emulator "a TD changes EFER as it likes" $model/leaf/msr.rs 's/Some\(new\)\) if \(new \^ current\(\)\)[^=]*== 0/Some(_))/'
emulator "a TD's addresses are of any width" tools/bochs-tdx/cpu/tdx_exit.cc 's/if \(gpa >> \(v->ctl\.shared_bit \+ 1\)\)/if (false)/'
emulator "a TD leaves its SPEC_CTRL behind" tools/bochs-tdx/cpu/tdx_enter.cc 's/cpu->msr\.ia32_spec_ctrl = e->spec_ctrl;//'
emulator "the length of an INT that is repeated is lost" tools/bochs-tdx/cpu/tdx_exit.cc \
	's/VMwrite32\(VMCS_32BIT_VMEXIT_INSTRUCTION_LENGTH, .*?\);//'
TESTS=("${FINALIZED[@]}")
kvm "KVM finalizes a TD while its pages move" $tdx 's/guard\(read_lock\)\(&kvm->mmu_lock\);\n(\n\tcmd->hw_error = tdh_mr_finalize)/$1/'
kvm "KVM measures a page while others move" $tdx 's/scoped_guard\(read_lock, &kvm->mmu_lock\)\n(\s*err = tdh_mr_extend)/$1/'
TESTS=("${STEADY[@]}")
kvm "KVM moves pages while the host reboots" $tdx 's/(SEAMCALL faults from here on\. \*\/\n\tif \()unlikely\(virt_rebooting\)/$1false/'
kvm "KVM makes no SEAMCALL before the provider" $tdx 's/tdh_mng_rd\(&kvm_tdx->td, TDCS_EXEC\(TD_TDCS_EXEC_TSC_OFFSET\), &unused\);(\n\t\tr = )/(void)unused;$1/'
kvm "KVM leaves preemption to the provider" $tdx 's/scoped_guard\(preempt\) \{(\n\t\ttdh_mng_rd)/{$1/'
kvm "KVM does not tell the architecture of pages that move" virt/kvm/guest_memfd.c \
	's/(flush \|= kvm_mmu_unmap_gfn_range\(kvm, &gfn_range\);\n\n#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_INVALIDATE\n)\t\tkvm_arch_gmem_invalidate_range\(kvm, &gfn_range\);/$1/'
TESTS=(lost 2 2 2 slot_of_a_lost_td fault_counters_with_lost_tds)
kvm "KVM leaves pages that it cannot remove in their file" virt/kvm/guest_memfd.c 's/(bindings = provider->bindings\(file\);\n\n)\tkvm_gmem_drop_kept\(slot\);/$1\t(void)kvm_gmem_drop_kept;/'
TESTS=("${LOST[@]}")
kvm "KVM forgets a page that it cannot remove" $tdx 's/\ttdx_keep_page\(kvm, pfn, why\);\n\n(\tif \(!tdx_td_is_lost)/$1/'
kvm "KVM forgets a page that the provider cannot get back" $tdx 's/for \(; nr; nr--\)\n\t\ttdx_relocation_keep\(kvm, &moves\[nr - 1\]\);/(void)tdx_relocation_keep;/'
kvm "KVM does not reclaim the pages it has kept" $tdx 's/(before all other pages of the TD\. \*\/\n)\ttdx_reclaim_kept_pages\(kvm_tdx\);/$1\t(void)tdx_reclaim_kept_pages;/'
kvm "KVM takes a lost TD for a bug" $tdx 's/if \(r == -EIO\)\n\t\tkvm_vm_dead\(kvm\);\n\telse\n//'
kvm "KVM takes a page it cannot remove for a bug" $tdx 's/return virt_rebooting && \(err & TDX_SW_ERROR\)/return false \&\& (err & TDX_SW_ERROR)/; s/(if \(\(err & TDX_SEAMCALL_STATUS_MASK\) == TDX_TD_FATAL\)\n\t\treturn )true/$1false/'
module "a page that stays blocked is taken for the TD's as before" src/backend/tdx.rs 's/(Outcome::Stuck => \(Err\(Refusal::Guest\.into\(\)\), Source::)Owned/$1Settled/'
module "a page that stays blocked does not leave its file" src/file/lost.rs 's/Err\(_\) if src\.is_kept\(\) => leave\(file, src\),//'
TESTS=("${BUG[@]}")
kvm "KVM takes a page that is mapped elsewhere for unmapped" arch/x86/kvm/mmu/tdp_mmu.c \
	's/if \(KVM_BUG_ON\(spte_to_pfn\(iter->old_spte\) != pfn, kvm\)\)\n\t\t\t\treturn -EBUSY;/if (spte_to_pfn(iter->old_spte) != pfn)\n\t\t\t\treturn 0;/'
TESTS=("${MOVES[@]}")
tdx_mutants module

# Bugs of Bochs that fixes/ has a cure for.
RUN=cases
TESTS=(privmemfd 2 2 2 run interrupts_while_moving read_only_page masked_interrupt interrupted_exceptions)
without 0001-posted-interrupt-descriptor-alignment.patch privmemfd 2 2 2 run
without 0002-interrupt-exits-and-rflags-if.patch privmemfd 2 2 2 masked_interrupt
without 0003-idt-vectoring-of-virtual-interrupts.patch privmemfd 2 2 2 interrupts_while_moving
without 0004-dirty-flag-of-a-read-only-page.patch privmemfd 2 2 2 read_only_page
without 0005-masked-virtual-interrupt.patch privmemfd 2 2 2 masked_interrupt
without 0006-large-ram-image.patch privmemfd 2 2 2 run
without 0008-smp-commits-rip-after-an-exception.patch privmemfd 2 2 2 interrupted_exceptions
TESTS=(faults 2 2 2 notified_for_nothing)
without 0007-notification-without-interrupts.patch faults 2 2 2 notified_for_nothing

# What a TD asks of the TDX module.
TESTS=(privmemfd 2 2 2 report runtime_registers fields tdcalls cpuid_as_told)
emulator "TDCALL: RTMRs stay as they are" $model/leaf/guest_measure.rs \
	's/self\.tdcs_wr\(&v\.td, at\(i\), w\);/let _ = (i, w);/'
emulator "TDCALL: VM.WR writes nothing" $model/leaf/guest_fields.rs 's/self\.tdcs_wr\(td, at, old & !mask \| data & mask\);//'
emulator "TDCALL: there is always a #VE to tell of" $model/leaf/guest_call.rs 's/VP_VEINFO_GET, NO_VALID_VE_INFO\)/VP_VEINFO_GET, 0)/'
emulator "TDCALL: CPUID is the host's" $model/leaf/cpuid.rs 's/(let mut out = self\.)cpuid_stored\(&v\.td, (leaf, sub\);\n\s*let mut put)/$1machine.cpuid(lp, $2/'

# What a Linux TD sees, and nothing that was written here.
RUN=linux
CPUS=1
TESTS=(--still --last kernel)
emulator "Linux TD: CPUID does not follow XFAM" $model/leaf/cpuid.rs 's/&& xfam & m\.2 != m\.2/&& false/'
emulator "Linux TD: RTMR.EXTEND does nothing" $model/leaf/guest_measure.rs \
	's/self\.tdcs_wr\(&v\.td, at\(i\), w\);/let _ = (i, w);/'
TESTS=(--last steady)
emulator "Linux TD: the CPU ignores the TDX module's INVEPT" tools/bochs-tdx/cpu/tdx.cc 's/tdx_tlb_invept\(lp, eptp\);//'
# shellcheck disable=SC2317 # called by tdx_mutants
linux_module() {
	case $1 in
	"no TRACK" | "copy instead of RELOCATE") module "Linux TD: $1" "$2" "$3" ;;
	# On one CPU whoever moves pages has thrown the vCPU out.
	"no kick") CPUS=2 module "Linux TD: $1" "$2" "$3" ;;
	esac
}
tdx_mutants linux_module
exit "$failed"
