#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# For tools/vm/emulator.sh: its BUG SECONDS CPU.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

case $1 in
stale-code) exec /tests/stale_code "$2" ;;
lost-interrupt | unlocked-flags)
	load_kvm /modules/kvm || exit 126
	exec "/tests/$(echo "$1" | tr - _)" "$2" "$3"
	;;
esac
