#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The demonstration's first act alone.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_kvm /modules/kvm && insmod /modules/privmemfd.ko || exit 125
need_cma || exit 125
/tests/privmemfd-demo --plain --json /out/run.json
