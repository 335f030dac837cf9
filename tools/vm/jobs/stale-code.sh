#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# For tools/vm/stale-code.sh.
exec /tests/stale_code "$(cat /etc/seconds)"
