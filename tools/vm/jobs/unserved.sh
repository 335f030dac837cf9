#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The control: Upstream's tests on KVM with our patches and no module.
# shellcheck source-path=SCRIPTDIR/../guest source=guest.sh
. /lib/guest.sh

suite "unserved: load KVM" 60 load_kvm /modules/kvm
suite "unserved: KVM refuses providers that do not fit" 60 insmod /modules/badprovider.ko
upstream "without the module"
