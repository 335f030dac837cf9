#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make test: every test that belongs to CI, on the debug kernel, what takes too long there
# on the plain one. The last line
# is `N passed, N failed, N skipped`; a report of the kernel is a failed test.
# Where Bochs is not to be had, what needs it is skipped. test.sh NAME... runs these
# machines alone, `host` is what runs on the host.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"
# shellcheck source-path=SCRIPTDIR source=../bochs-tdx/host.sh
. "$TOP/tools/bochs-tdx/host.sh"

OUT=$BUILD/test
# Seconds that each machine's job may take, and how many machines run at a time.
declare -A LIMIT=([own]=2400 [served]=1500 [unserved]=1500 [unpatched]=900 [tdx]=2400 [tdxemu]=900 [tdxhost]=900
	[plain]=1500 [hostile]=1500 [collection]=500
	[areas]=300 [one]=300 [act1]=600)
WORKERS=2

only_one

# Whatever ends this script early is a failure, and says so in the same form.
summary="0 passed, 1 failed, 0 skipped"
trap 'status=$?; trap - EXIT; [ -e "$OUT/summary" ] || echo "$summary" | tee "$OUT/summary"; exit $status' EXIT

# suite NAME COMMAND...: the host's side of guest.sh's function.
suite() {
	local name=$1 status=0 start=$SECONDS
	shift
	echo ">>> suite $name"
	"$@" 2>&1 || status=$?
	echo "<<< suite $name: exit $status, $((SECONDS - start)) s"
}

# The model of a TDX module is a workspace of its own; its tests replay what the
# real module answered.
# shellcheck disable=SC2317 # called by suite
model_tests() {
	(cd "$TOP/tools/tdx-emu" && cargo test --locked --quiet --workspace --target-dir "$BUILD/cargo-model")
}

host_tests() {
	suite "make shell" "$TOP/tools/vm/shell-test.py"
	suite "harness" python3 -m unittest discover -s "$TOP/tools/vm/tests"
	suite "cargo test" cargo_tools test --quiet --workspace
	suite "TDX model" model_tests
}

machine() {
	local more=() job=$1
	case $1 in
	tdxhost)
		tdx_host "$BOCHS" "$OUT/$1" "${LIMIT[$1]}" -- privmemfd moves 2 2 2
		return
		;;
	# None looks for leaks; the emulator's are found in machine tdx.
	unserved | unpatched | tdxemu) COMMAND_LINE+=" kmemleak=off" ;;&
	# Less memory is searched in less time.
	served | unserved) MEMORY=4G COMMAND_LINE=${COMMAND_LINE/movablecore=4G/movablecore=1G} ;;&
	plain | collection | areas | one | act1) on_plain ;;&
	plain | hostile) JOB_ARGUMENTS=("${SEED:-1}") ;;&
	# Of huge pages of 1 GiB the kernel makes an area on whichever node it is told.
	areas) job=areas JOB_ARGUMENTS=(2) COMMAND_LINE+=" hugetlb_cma=1:1G" ;;
	one) job=areas JOB_ARGUMENTS=(1) COMMAND_LINE=${COMMAND_LINE/numa=fake=2 /} ;;
	act1) demo_machine ;;
	hostile)
		# All of memory is searched.
		MEMORY=4G COMMAND_LINE=${COMMAND_LINE/movablecore=4G/movablecore=2G}
		;;
	plain | served | unserved) more=("$UPSTREAM:/upstream") ;;
	collection)
		DESTDIR=$OUT/kselftest "$TOP/tools/install/tests.sh"
		more=("$OUT/kselftest:/kselftest")
		;;
	unpatched) more=("$KERNEL/arch/x86/kvm/kvm.ko:/modules/stock-kvm/" "$KERNEL/arch/x86/kvm/kvm-amd.ko:/modules/stock-kvm/") ;;
	esac
	boot "$job" "$OUT/$1" "${LIMIT[$1]}" "${more[@]}"
}

# on_plain: what is booted from here on, in a machine's own process, is the plain kernel.
on_plain() {
	KERNEL=${PLAIN[0]} KDIR=${PLAIN[0]} KVM_MODULES=${PLAIN[1]} MODULE=${PLAIN[2]} TEST_MODULES=${PLAIN[3]}
	kernel_modules
}

# run_machine NAME: show it live with its name in front, keep how it went.
run_machine() {
	local status=0 expected=()
	machine "$1" > >(sed -u "s/^/[$1] /") 2> >(sed -u "s/^/[$1] /" >&2) || status=$?
	{
		case $1 in
		tdxhost)
			suite "TDs on the emulated TDX host" show_job "$1" "$status"
			suite "what the TDX module saw" "$TOP/tools/bochs-tdx/summary.py" "$OUT/tdx-host.json" 1 "$1=$OUT/$1"
			;;
		*) suite "machine $1" exit_with "$status" ;;
		esac
		case $1 in unserved | unpatched | tdxemu) expected=(--ignore 'kmemleak: Kernel memory leak detector disabled') ;; esac
		suite "kernel log of $1" "$TOP/tools/vm/kernel-reports" "${expected[@]}" "$(kernel_log "$OUT/$1")"
	} >"$OUT/$1.log"
}

# shellcheck disable=SC2317 # called by suite
exit_with() {
	return "$1"
}

# show_job NAME STATUS: what a job said that has no marks of suites.
# shellcheck disable=SC2317 # called by suite
show_job() {
	cat "$OUT/$1/job.log"
	return "$2"
}

rm -rf "$OUT"
mkdir -p "$OUT"
prepare plain
PLAIN=("$KERNEL" "$KVM_MODULES" "$MODULE" "$TEST_MODULES")
prepare debug
UPSTREAM=$("$TOP/tools/build/selftests.sh" "$CACHE/linux") || exit 1

no_bochs=0
BOCHS=$("$TOP/tools/bochs-tdx/build.sh") || no_bochs=$?
case $no_bochs in
0) tdxhost=(tdxhost) ;;
4) tdxhost=() ;;
*) exit 1 ;;
esac
# The longest first.
RUNS=(own tdx plain hostile "${tdxhost[@]}" served host unserved tdxemu unpatched collection act1 areas one)
[ $# -eq 0 ] || RUNS=("$@")

say "tests of ${RUNS[*]}, $WORKERS at a time"
for name in "${RUNS[@]}"; do
	while [ "$(jobs -rp | wc -l)" -ge "$WORKERS" ]; do
		wait -n || true
	done
	if [ "$name" = host ]; then
		host_tests | tee "$OUT/host.log" | sed -u 's/^/[host] /' &
	else
		run_machine "$name" &
	fi
done
wait

logs=()
if [ "$no_bochs" -ne 0 ]; then
	suite "TDs on the emulated TDX host" exit_with "$no_bochs" >"$OUT/no-bochs.log"
	logs+=("$OUT/no-bochs.log")
fi
for name in "${RUNS[@]}"; do
	logs+=("$OUT/$name.log")
	[ "$name" != host ] || continue
	mkdir -p "$OUT/$name"
	touch "$OUT/$name/job.log"
	logs+=("$OUT/$name/job.log")
	sed -n '/^--- kernel report/,/^---$/p' "$OUT/$name.log"
done
[ ! -f "$OUT/tdx/fault-matrix.txt" ] || cp "$OUT/tdx/fault-matrix.txt" "$BUILD/"
status=0
"$TOP/tools/vm/ktap.py" "${logs[@]}" >"$OUT/result" || status=$?
tail -n 1 "$OUT/result" >"$OUT/summary"
cat "$OUT/result"
exit "$status"
