#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make install-tests DESTDIR=: the self-tests that need no test module and no emulator, as a
# kselftest collection: kselftest-list.txt, privmemfd/ with the programs, which are static,
# their time limit (settings), and run, which says what the tests do to the machine.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../build/lib.sh
. "$(dirname "$0")/../build/lib.sh"

TESTS=(abi_test file_test errno_test move_test kcore_test privmemctl_test migrate_test race_test kvm_test hwpoison_test)
TARGET=x86_64-unknown-linux-gnu

[ -n "${DESTDIR:-}" ] || die "DESTDIR is not set" "say where: make install-tests DESTDIR=/path/to/folder"
(cd "$TOP/tools" && cargo build --locked --release --quiet --target "$TARGET" --target-dir "$TOP/build/cargo" \
	-p selftests -p privmemctl) || die "the self-tests do not build" "read the messages above"
programs=$TOP/build/cargo/$TARGET/release
folder=$DESTDIR/privmemfd
mkdir -p "$folder" || die "cannot write $folder" "give another DESTDIR="
for name in "${TESTS[@]}" privmemctl; do
	install -m 755 "$programs/$name" "$folder/$name"
done
install -m 755 "$TOP/tools/install/run" "$folder/run"
echo timeout=600 >"$folder/settings"
printf 'privmemfd:%s\n' "${TESTS[@]}" >"$DESTDIR/kselftest-list.txt"
say "$folder: as root, $folder/run --help"
