#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Upstream's tests on KVM's own guest_memfd: our module isn't there.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

suite "load" 60 load_kvm /modules/kvm
upstream "alone"
upstream_long "alone"
suite "unload" 60 unload_kvm
