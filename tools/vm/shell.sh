#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make shell: the test VM with KVM and the module loaded, and a prompt. CMD='...' runs one
# command instead; this script's status is the command's. MIB= of memory, VCPUS= CPUs and
# NUMA= nodes are the VM's; KERNEL=plain|debug|stock.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

# A day.
LIMIT=86400

flavour=${KERNEL:-plain}
prepare "$flavour"
machine_size
if [ -n "${CMD:-}" ]; then
	JOB_ARGUMENTS=("$CMD")
else
	VM_OPTIONS+=(--interactive)
fi
status=0
boot shell "$BUILD/shell" "$LIMIT" || status=$?
exit "$status"
