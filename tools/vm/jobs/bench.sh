#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# make bench: what a move costs, beside the move of an ordinary memfd's page. The
# machine's clock counts instructions.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_kvm /modules/kvm || exit 125
insmod /modules/privmemfd.ko && insmod /modules/tdxemu.ko && insmod /modules/tdhost.ko || exit 125
# Until the kernel trusts its clock: before that, timers come with the tick, and samples too.
sleep 2
/tests/privmemfd-bench --instructions --json /out/bench.json "$@"
