#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# For tools/vm/lost-interrupt.sh.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

load_kvm /modules/kvm && /tests/lost_interrupt "$1"
