#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# soak.sh model|relocate OPTIONS...: random operations against a model, on VMs and TDs;
# or relocations without pause below guests that verify. Leaves /out/WHAT.json.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_kvm /modules/kvm && insmod /modules/hwpoison-inject.ko && insmod /modules/copyfail.ko || exit 125
insmod /modules/privmemfd.ko || exit 125
# Tags find what the host writes to a TD's page.
insmod /modules/tdxemu.ko tags=256 && insmod /modules/tdhost.ko || exit 125
/tests/privmemfd-soak "$@" --json "/out/$1.json"
