#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# make run: a guest on private memory while the host moves it; then another, whose
# memory a TD owns. In plain mode the TDX module has no keys, so that the guest
# that KVM runs and the TD see the same content.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_kvm /modules/kvm || exit 125
insmod /modules/privmemfd.ko || exit 125
need_cma || exit 125
insmod /modules/tdxemu.ko cipher=0 || exit 125
insmod /modules/tdhost.ko || exit 125
/tests/privmemfd-demo --tdx --json /out/run.json "$@"
