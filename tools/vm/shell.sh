#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make shell: the test VM with KVM and the module loaded, and a prompt; what comes by a pipe
# or from a file is run as a script. CMD='...' runs one command instead, without input.
# This script's status is that of what has run. MIB= of memory, VCPUS= CPUs and NUMA= nodes are the
# VM's; KERNEL=plain|debug|stock.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

# A day.
LIMIT=86400

flavour=${KERNEL:-plain}
# What is typed is for the shell in the VM.
prepare "$flavour" </dev/null
machine_size
if [ -n "${CMD:-}" ]; then
	JOB_ARGUMENTS=("$CMD")
elif [ -t 0 ]; then
	VM_OPTIONS+=(--interactive)
else
	VM_OPTIONS+=(--input -)
	JOB_ARGUMENTS=("exec sh")
fi
status=0
boot shell "$BUILD/shell" "$LIMIT" || status=$?
exit "$status"
