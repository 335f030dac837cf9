#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make test ONLY='PROGRAM [WORD...]': build what has changed, boot, run the cases of one
# test program whose names contain a word. KERNEL=plain|debug|stock.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

LIMIT=700
OUT=$BUILD/only

flavour=${KERNEL:-plain}
read -r -a words <<<"${ONLY:?PROGRAM [WORD...]}"
program=${words[0]}
if [ ! -f "$TOP/tools/selftests/src/bin/$program.rs" ]; then
	die "no test program $program" "there are: $(cd "$TOP/tools/selftests/src/bin" && echo *_test.rs | sed 's/\.rs//g')"
fi
only_one
prepare "$flavour"
# All of memory is searched.
[ "$program" != privacy_test ] || MEMORY=4G COMMAND_LINE=${COMMAND_LINE/movablecore=4G/movablecore=2G}
JOB_ARGUMENTS=("${words[@]}")
status=0
boot only "$OUT" "$LIMIT" || status=$?
[ -s "$OUT/job.log" ] || exit "${status/#0/1}"
"$TOP/tools/vm/ktap.py" "$OUT/job.log" || status=1
"$TOP/tools/vm/kernel-reports" --quiet "$(kernel_log "$OUT")" || status=1
exit "$status"
