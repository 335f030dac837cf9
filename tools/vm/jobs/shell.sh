#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# make shell: KVM and the module are loaded; then one command, whose status this ends with, or
# a shell on this line.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_kvm /modules/kvm && insmod /modules/privmemfd.ko || exit 125
export PATH="/tests:$PATH" HOME=/tmp
if [ $# -gt 0 ]; then
	exec sh -c "$1"
fi

cat >/tmp/.profile <<'PROFILE'
PS1='vm# '
PROFILE
stty -F /dev/ttyS1 sane rows "$LINES" cols "$COLUMNS"
cat >/dev/ttyS1 <<TEXT
Linux $(uname -r), $(nproc) CPUs; kvm and privmemfd are loaded.
  programs   /tests: privmemctl, privmemfd-demo, the self-tests
  modules    /modules: tdxemu and tdhost, which own TDs, and what tests load
  counters   $COUNTERS
Files in /out come back to build/shell. 'exit' ends the machine, Ctrl-] one that hangs.
TEXT
exec setsid -c sh -l </dev/ttyS1 >/dev/ttyS1 2>&1
