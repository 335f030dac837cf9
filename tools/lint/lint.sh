#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make lint: every checker, one line each. lint.sh NAME... runs those alone.
# shellcheck disable=SC2317 # the checks are called by their names
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../vm/prepare.sh
. "$(dirname "$0")/../vm/prepare.sh"

OUT=$BUILD/lint
LONGEST_FILE=500
SKIPPED=4

# skip REASON: leave the check that runs.
skip() {
	echo "$1"
	exit "$SKIPPED"
}

# nothing COMMAND...: there must be no output, from an error neither.
nothing() {
	local found
	found=$("$@" 2>&1) || true
	[ -z "$found" ] || {
		printf '%s\n' "$found"
		return 1
	}
}

# sources NAME_PATTERN...: our files of these names, built things left out.
sources() {
	local names=() pattern
	for pattern; do names+=(-o -name "$pattern"); done
	find "$TOP" \( -path "$BUILD" -o -path "$TOP/.git" -o -name target -o -name '*.mod.c' \) -prune -o \
		-type f \( "${names[@]:1}" \) -print | sort
}

module_sources() {
	[ -f "$TOP/src/main.rs" ] || skip "src/ is not there"
	find "$TOP/rust" "$TOP/src" -name '*.rs' -not -name '*_generated.rs'
}

# All Rust that the kernel's build compiles, with the kernel's way to format it.
kernel_sources() {
	module_sources
	find "$TOP/tools/tdx-emu/kernel" "$TOP/tools/lint/compile-fail" -name '*.rs'
}

scripts() {
	sources '*.sh'
	sources '*' | grep -v '\.sh$' | xargs grep -lE -m1 '^#!/bin/(ba)?sh' 2>/dev/null || true
}

# --- the checks: no output that matters means success

check_rustfmt_module() {
	module_sources >/dev/null
	kernel_sources | xargs rustfmt --check --config-path "$CACHE/linux/.rustfmt.toml"
}

check_rustfmt_tools() {
	cd "$TOP/tools" && cargo fmt --all --check
}

# Clippy, the compilers' W=1 and sparse see the module in one build from scratch.
check_module_warnings() {
	module_sources >/dev/null
	rm -rf "$OUT/module"
	mkdir -p "$OUT/module"
	make --no-print-directory -C "$TOP" module KDIR="$KERNEL" MO="$OUT/module" W=1 CLIPPY=1 \
		C=1 CHECK="$TOP/tools/lint/sparse" >"$OUT/module.build" 2>&1 || {
		cat "$OUT/module.build"
		return 1
	}
	no_warnings "$OUT/module.build"
}

# What src/ could write must not break memory safety: misuses of rust/ do not compile.
check_compile_fail() {
	module_sources >/dev/null
	mkdir -p "$OUT/compile-fail" "$OUT/misuse"
	make -s --no-print-directory -C "$TOP" module KDIR="$KERNEL" MO="$OUT/compile-fail" \
		>"$OUT/compile-fail.build" 2>&1 || {
		cat "$OUT/compile-fail.build"
		return 1
	}
	nothing "$TOP/tools/lint/compile_fail.py" "$OUT/compile-fail" "$TOP/tools/lint/compile-fail" "$OUT/misuse"
}

# The modules of the tests likewise.
check_test_module_warnings() {
	rm -rf "$OUT/test" "$OUT/test-module"
	mkdir -p "$OUT/test-module"
	make -s --no-print-directory -C "$TOP" module KDIR="$KERNEL" MO="$OUT/test-module" >/dev/null 2>&1 || return 1
	"$TOP/tools/build/test-modules.sh" "$KERNEL" "$OUT/test" W=1 CLIPPY=1 C=1 CHECK="$TOP/tools/lint/sparse" \
		KBUILD_EXTRA_SYMBOLS="$OUT/test-module/Module.symvers" || return 1
	local name
	for name in selftests tdxemu stray count tdhost; do
		no_warnings "$OUT/test/$name.log" || return 1
	done
}

# no_warnings LOG: of a build with every checker.
no_warnings() {
	nothing grep -E -A 8 '(warning|error):' "$1" || return 1
	# Kbuild goes on without a checker that it finds too old.
	grep -E -q '^ +CHECK' "$1" || {
		echo "sparse did not run"
		return 1
	}
}

check_module_rustdoc() {
	module_sources >/dev/null
	# Its crate metadata must be rustc's own, not clippy's.
	rm -rf "$OUT/rustdoc"
	mkdir -p "$OUT/rustdoc"
	make -s --no-print-directory -C "$TOP" module KDIR="$KERNEL" MO="$OUT/rustdoc" || return 1
	"$TOP/tools/lint/module-rustdoc" "$OUT/rustdoc" "$OUT/doc"
}

check_clippy_tools() {
	cargo_tools clippy --workspace --all-targets -- -D warnings
}

check_rustdoc_tools() {
	RUSTDOCFLAGS='-D warnings' cargo_tools doc --workspace --no-deps
}

# The fuzz target is a workspace of its own, and only running it needs nightly.
check_model() {
	cd "$TOP/tools/tdx-emu" || return 1
	local target=(--target-dir "$BUILD/cargo-model") fuzz=(--manifest-path fuzz/Cargo.toml)
	cargo fmt --all --check &&
		cargo fmt "${fuzz[@]}" --check &&
		cargo check --locked "${fuzz[@]}" --target-dir "$BUILD/cargo-fuzz" &&
		cargo clippy --locked "${target[@]}" --workspace --all-targets -- -D warnings &&
		RUSTDOCFLAGS='-D warnings' cargo doc --locked "${target[@]}" --workspace --no-deps
}

# The programs of the emulated TDX host, its VMM and guest, and those of a Linux TD:
# workspaces of their own, too.
check_td_test() {
	local name
	for name in td linux-td; do
		cd "$TOP/tools/bochs-tdx/$name" || return 1
		cargo fmt --all --check || return 1
		cargo clippy --locked --target-dir "$BUILD/cargo-$name" --all-targets -- -D warnings || return 1
	done
}

check_checkpatch() {
	# It judges by the place in a kernel tree, so by the relative path.
	cd "$TOP" || return 1
	local checkpatch=("$CACHE/linux/scripts/checkpatch.pl" --no-tree --strict --terse --no-summary) bad=0
	sources '*.c' '*.h' | sed "s,^$TOP/,," >"$OUT/checkpatch.list"
	grep -v '^include/trace/' "$OUT/checkpatch.list" | xargs "${checkpatch[@]}" -f || bad=1
	# The form of trace events is like nothing else; Upstream's do not pass either.
	grep '^include/trace/' "$OUT/checkpatch.list" |
		xargs -r "${checkpatch[@]}" --ignore COMPLEX_MACRO,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT -f || bad=1
	return "$bad"
}

check_patches() {
	[ -f "$TOP/patches/series" ] || skip "patches/ is not there"
	"$TOP/tools/build/kvm-modules.sh" --check "$CACHE/linux"
}

check_shellcheck() {
	scripts | sort -u | xargs shellcheck -x -P SCRIPTDIR
}

check_rst() {
	python3 -c 'import docutils' 2>/dev/null || skip "no docutils (as root: apt-get install python3-docutils)"
	"$TOP/tools/lint/rst.py" "$TOP"/Documentation/*.rst
}

check_uapi_header() {
	local header language
	for header in "$TOP"/include/uapi/linux/*.h; do
		# Padding is only seen in structures whose size matters.
		{
			echo "#include \"$header\""
			sed -n 's/^struct \([a-z0-9_]*\) {.*/extern char size_of_\1[sizeof(struct \1)];/p' "$header"
		} >"$OUT/uapi.h.c"
		for language in "c -std=c99" "c -std=c11" "c++ -std=c++11" "c++ -std=c++20"; do
			# shellcheck disable=SC2086 # two words
			"clang-$LLVM_VERSION" -x $language -fsyntax-only -Wall -Wextra -Wpedantic -Wpadded -Werror \
				"$OUT/uapi.h.c" || return 1
		done
	done
}

check_no_unsafe() {
	module_sources >/dev/null
	grep -q '^#!\[forbid(unsafe_code)\]' "$TOP/src/main.rs" || {
		echo "src/main.rs does not forbid unsafe code"
		return 1
	}
	nothing grep -rnE '^[^/]*\bunsafe\b' "$TOP/src" --include='*.rs'
}

# The modules of src/, lowest first: each uses only those before it. module_parameters
# is made by module!.
LAYERS=(module_parameters counter refusal backend relocate stats uapi file kvm_binding control)

check_layers() {
	module_sources >/dev/null
	nothing "$TOP/tools/lint/layers.py" "$TOP/src" "${LAYERS[@]}"
}

check_file_length() {
	local file lines bad=0
	while read -r file; do
		lines=$(wc -l <"$file")
		if [ "$lines" -gt "$LONGEST_FILE" ]; then
			echo "${file#"$TOP"/}: $lines lines, at most $LONGEST_FILE"
			bad=1
		fi
	done < <(sources '*.rs' '*.c' '*.cc' '*.h' '*.hh' '*.s' '*.S' '*.py' '*.sh' | grep -v _generated)
	return "$bad"
}

# What is somebody's machine does not belong into the project.
check_no_machine_paths() {
	cd "$TOP" || return 1
	git rev-parse --git-dir >/dev/null || skip "no git checkout"
	nothing git grep -nIE '(^|[^[:alnum:]_.-])/([w]ork|[r]oot|[h]ome)/' -- . ':!*.lock'
}

CHECKS=(
	rustfmt_module rustfmt_tools module_warnings compile_fail test_module_warnings module_rustdoc
	clippy_tools rustdoc_tools
	model td_test checkpatch patches shellcheck rst uapi_header no_unsafe layers file_length no_machine_paths
)

"$TOP/tools/build/provision.sh"
KERNEL=$("$TOP/tools/build/kernel.sh" plain)
mkdir -p "$OUT"
[ $# -eq 0 ] || CHECKS=("$@")
failed=0
for name in "${CHECKS[@]}"; do
	status=0
	("check_$name") >"$OUT/$name.log" 2>&1 || status=$?
	case $status in
	0) echo "ok    ${name//_/ }" ;;
	"$SKIPPED") echo "skip  ${name//_/ }: $(tail -n 1 "$OUT/$name.log")" ;;
	*)
		echo "FAIL  ${name//_/ } (build/lint/$name.log)"
		tail -n 25 "$OUT/$name.log" | sed 's/^/      /'
		failed=1
		;;
	esac
done
exit "$failed"
