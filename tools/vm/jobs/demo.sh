#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# make run: a guest on private memory while the host moves it.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_kvm /modules/kvm || exit 125
insmod /modules/privmemfd.ko || exit 125
/tests/privmemfd-demo --json /out/run.json
