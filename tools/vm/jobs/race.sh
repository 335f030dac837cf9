#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# race_test as a whole.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_kvm /modules/kvm && insmod /modules/privmemfd.ko || exit 125
/tests/race_test
