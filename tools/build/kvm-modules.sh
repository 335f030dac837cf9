#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kvm-modules.sh [--only N] [--sw-protected] KDIR KSRC [OUT] [-- MAKE_ARGS...]
#	Build kvm.ko, kvm-intel.ko and kvm-amd.ko with patches/ applied for the
#	built, unpatched kernel in KDIR and print the folder that holds them. KSRC
#	is that kernel's full source; neither is written to. Without OUT the result
#	is kept in the cache, once for each set of inputs. --only applies the first
#	N patches. --sw-protected: with VMs of type KVM_X86_SW_PROTECTED_VM, also
#	for a kernel without CONFIG_KVM_SW_PROTECTED_VM, as distributions' are. They
#	protect nothing, and are there to try private memory.
# kvm-modules.sh --check KSRC
#	Check the patches themselves: checkpatch, and that their copy of the
#	provider interface is the one in include/.
#
# How: what the modules are made of and what the patches touch is copied into an
# overlay and patched there; its headers are found before the kernel's own.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

PATCHES=$TOP/patches
INTERFACE=include/linux/kvm_gmem_provider.h

usage="kvm-modules.sh [--only N] [--sw-protected] KDIR KSRC [OUT] [-- MAKE_ARGS...], or --check KSRC"
only='' check='' sw_protected=''
while [ $# -gt 0 ]; do
	case $1 in
	--only) only=${2:?$usage} && shift 2 ;;
	--check) check=1 && shift ;;
	--sw-protected) sw_protected=1 && shift ;;
	-*) die "unknown option '$1'" "$usage" ;;
	*) break ;;
	esac
done

# series: the patch files in order, at most the first $only of them.
series() {
	local all
	mapfile -t all < <(sed 's/[[:space:]]*#.*//; /^$/d' "$PATCHES/series")
	printf "$PATCHES/%s\n" "${all[@]:0:${only:-${#all[@]}}}"
}

# touched PATCHES...: the files that they change, add or remove.
touched() {
	sed -n 's,^\(---\|+++\) [ab]/\([^\t]*\).*,\2,p' "$@" | sort -u
}

# apply_patches KSRC OVERLAY: bring in the files that the patches touch, apply.
apply_patches() {
	local f p
	for f in $(touched "${patches[@]}"); do
		if [ ! -e "$2/$f" ] && [ -e "$1/$f" ]; then
			mkdir -p "$2/${f%/*}"
			cp "$1/$f" "$2/$f"
		fi
	done
	for p in "${patches[@]}"; do
		patch -d "$2" -p1 -s -f --no-backup-if-mismatch <"$p" >"$2/patch.log" 2>&1 || {
			cat "$2/patch.log" >&2
			die "${p##*/} does not apply to the source in $1" \
				"the series is made for Linux $KERNEL_SERIES (see patches/README); give a KSRC of that version without other changes to KVM, or refresh this patch and the ones after it"
		}
	done
	rm -f "$2/patch.log"
}

mapfile -t patches < <(series)
[ -f "${patches[0]:-}" ] || die "no patches in $PATCHES/series"

if [ -n "$check" ]; then
	ksrc=$(readlink -f "${1:?$usage}")
	# What git am applies, the list and the folder must be the same.
	diff <(series | sed 's,.*/,,') <(cd "$PATCHES" && ls -- *.patch) >&2 ||
		die "patches/series and patches/*.patch differ" "list every patch once, in order"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	apply_patches "$ksrc" "$work"
	cmp -- "$work/$INTERFACE" "$TOP/$INTERFACE" >&2 ||
		die "the series adds another $INTERFACE than the one in this checkout" \
			"make both the same: the module and KVM are built against one each"
	failed=0
	for p in "${patches[@]}"; do
		# Added files match a pattern that MAINTAINERS has for KVM; there is no git
		# history in which to find the commits that are fixed.
		"$ksrc/scripts/checkpatch.pl" --no-tree --strict --quiet --no-summary \
			--ignore FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID "$p" >&2 || {
			failed=1
			say "the above is about ${p##*/}"
		}
	done
	[ "$failed" -eq 0 ] || die "checkpatch has complaints" "fix the patches named above"
	say "patches: ${#patches[@]} checked"
	exit 0
fi

kdir=$(readlink -f "${1:?$usage}")
ksrc=$(readlink -f "${2:?$usage}")
shift 2
out=
if [ $# -gt 0 ] && [ "$1" != -- ]; then
	out=$1
	shift
fi
[ "${1:-}" != -- ] || shift

for f in include/config/kernel.release Module.symvers; do
	[ -f "$kdir/$f" ] ||
		die "$kdir is not a built kernel" "build it (bzImage and modules), or give its build folder"
done
[ -f "$ksrc/virt/kvm/kvm_main.c" ] ||
	die "$ksrc has no KVM source" "give the full source of the kernel in $kdir as KSRC; header packages do not contain it"
version=$(make -s -C "$ksrc" kernelversion)
release=$(<"$kdir/include/config/kernel.release")
case $release in
"$version"*) ;;
*) die "$kdir holds Linux $release, $ksrc is $version" "give the source that the kernel was built from" ;;
esac

# Kept apart by compiler: they come from the kernel's own, see kmake.
compiler=$(sed -n 's/^CONFIG_CC_VERSION_TEXT=//p' "$kdir/include/config/auto.conf")
identity=$(key "$kdir/.config" "$release" "$ksrc" "$version" "$compiler" "$0" "${patches[@]}" "$sw_protected" "$*")
out=$(realpath -m "${out:-$CACHE/kvm-$identity}")
echo "$out"
mkdir -p "$out" || die "cannot create $out" "give an OUT that you can write to, or set PRIVMEMFD_CACHE"
# Whoever asks for the same modules meanwhile waits for these.
exec 9>"$out/.lock"
flock 9
if [ -f "$out/complete" ] && [ "$(<"$out/complete")" = "$identity" ]; then exit 0; fi

wanted=()
for pair in KVM_X86:kvm KVM_INTEL:kvm-intel KVM_AMD:kvm-amd; do
	state=$(sed -n "s/^CONFIG_${pair%%:*}=//p" "$kdir/.config")
	case $state in
	m) wanted+=("${pair#*:}") ;;
	y) die "${pair#*:} is built into this kernel" "only modules can be replaced: set CONFIG_${pair%%:*}=m" ;;
	*) say "${pair#*:}.ko: not enabled in this kernel, skipped" ;;
	esac
done
[ ${#wanted[@]} -gt 0 ] || die "this kernel has no KVM modules" "enable CONFIG_KVM=m and a vendor module"

need_disk "$out" 500
say "building ${wanted[*]/%/.ko} with ${#patches[@]} patches for Linux $release"
overlay=$out/overlay
rm -rf "$overlay" "$out/complete" "$out"/{kvm,kvm-intel,kvm-amd}.ko
mkdir -p "$overlay/arch/x86" "$overlay/virt" "$overlay/include/trace"
cp -r "$ksrc/arch/x86/kvm" "$overlay/arch/x86/"
cp -r "$ksrc/virt/kvm" "$overlay/virt/"
# KVM's trace headers are found relative to these.
cp -r "$ksrc"/include/trace/{stages,*.h} "$overlay/include/trace/"
# A source tree that was built in carries objects along.
find "$overlay" \( -name '*.o' -o -name '*.ko' -o -name '.*.cmd' -o -name 'kvm-asm-offsets.[hs]' \) -delete
apply_patches "$ksrc" "$overlay"

# Kbuild prefers this file to the Makefile, which keeps what it says (the check
# of the exports too) about the overlay instead of the kernel tree.
# shellcheck disable=SC2016 # make's variables, not the shell's
sed -e 's,$(srctree)/arch/x86/kvm,$(src),g' -e 's,$(srctree)/virt/kvm,$(overlay)/virt/kvm,g' \
	"$overlay/arch/x86/kvm/Makefile" >"$overlay/arch/x86/kvm/Makefile.overlay"
cat >"$overlay/arch/x86/kvm/Kbuild" <<'KBUILD'
overlay := $(abspath $(src)/../../..)
LINUXINCLUDE := $(addprefix -I,$(wildcard $(addprefix $(overlay)/,arch/x86/include arch/x86/include/uapi include include/uapi))) $(LINUXINCLUDE)
include $(src)/Makefile.overlay
KBUILD
# Nothing else depends on the option, so it need not be the kernel's.
if [ -n "$sw_protected" ] && ! grep -q '^CONFIG_KVM_SW_PROTECTED_VM=y' "$kdir/.config"; then
	echo 'ccflags-y += -DCONFIG_KVM_SW_PROTECTED_VM=1' >>"$overlay/arch/x86/kvm/Kbuild"
fi

with_progress "KVM modules" 60 "$out/build.log" \
	kmake "$kdir" M="$overlay/arch/x86/kvm" -j"$(nproc)" "$@" modules ||
	die "the KVM modules do not build" "read $out/build.log"
for m in "${wanted[@]}"; do
	cp "$overlay/arch/x86/kvm/$m.ko" "$out/$m.ko"
done
cp "$overlay/arch/x86/kvm/Module.symvers" "$out/Module.symvers"
echo "$identity" >"$out/complete"
