#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make soak [OPS=N] [SEED=N] [MOVES=N] [DEBUG=1]: random operations against a model,
# then relocations below guests that verify. Leaves build/soak.json, and in build/soak/
# a picture of what the host had over time. A sequence of operations that takes the
# machine down is shortened here, one boot for each that does.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$(dirname "$0")/prepare.sh"

OUT=$BUILD/soak
OPS=${OPS:-1000000}
SEED=${SEED:-$(date +%s)}
MOVES=${MOVES:-1000000}
# An hour for each million on an idle machine, and as much again.
LIMIT=$((1200 + OPS / 50 + MOVES / 100))
# What the kernel complains about ends the machine, so that it counts as a divergence.
COMMAND_LINE="numa=fake=2 movablecore=2G cma=64M oops=panic panic_on_warn=1"
MEMORY=4G
MACHINE_FAILED=125

# shorten SEED: tries shorter sequences until the journal of those tried says which is
# the shortest; each that takes a machine down is one boot.
shorten() {
	local seed=$1 journal=$OUT/journal log=$OUT/shorten/job.log
	: >"$journal"
	JOB_ARGUMENTS=(model --one --seed "$seed" --journal /journal)
	while :; do
		boot soak "$OUT/shorten" 900 "$journal:/journal" >"$OUT/shorten.log" 2>&1 || true
		if grep -aq '^DIVERGENCE' "$log"; then
			sed -n '/^DIVERGENCE/,$p' "$log"
			return
		fi
		grep -aq '^sequence of' "$log" || die "seed $seed does not end the machine a second time" "read $OUT/model"
		sed -n 's/^end //p' "$log" >>"$journal"
		grep -aq ' operations in .* a second' "$log" && die "seed $seed diverges no more" "read $OUT/shorten"
		echo "bad $(tac "$log" | sed '/^sequence of/q' | grep -ac '^op ')" >>"$journal"
		say "$(wc -l <"$journal") sequences tried, the shortest has $(sed -n 's/^bad //p' "$journal" | sort -n | head -n 1) operations"
	done
}

only_one
rm -rf "$OUT" "$BUILD/soak.json"
mkdir -p "$OUT"
prepare "$([ -n "${DEBUG:-}" ] && echo debug || echo plain)"
status=0
divergences=0

say "$OPS operations, seed $SEED"
JOB_ARGUMENTS=(model --ops "$OPS" --seed "$SEED")
boot soak "$OUT/model" "$LIMIT" || {
	status=$?
	divergences=1
	seed=$(sed -n 's/^seed \(0x[0-9a-f]*\),.*/\1/p' "$OUT/model/job.log" | tail -n 1)
	[ "$status" -ne "$MACHINE_FAILED" ] || [ -z "$seed" ] || {
		say "the machine ended in the sequence of seed $seed: shortening it"
		shorten "$seed" | tee "$OUT/divergence.txt"
	}
}
say "$MOVES relocations of each backend"
JOB_ARGUMENTS=(relocate --pages "$MOVES")
boot soak "$OUT/relocate" "$LIMIT" || status=$?
[ ! -f "$OUT/relocate/relocate.json" ] ||
	"$PROGRAMS/privmemfd-soak" picture "$OUT/relocate/relocate.json" "$OUT/soak.svg"

python3 - "$OUT" "$OPS" "$SEED" "$divergences" >"$BUILD/soak.json" <<'END'
import json, pathlib, sys

out, divergences = pathlib.Path(sys.argv[1]), int(sys.argv[4])


def read(name):
    path = out / name / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


model, moves = read("model"), read("relocate")
print(json.dumps({
    "operations": model.get("operations", 0),
    "seeds": model.get("seeds", [int(sys.argv[3], 0)]),
    "divergences": divergences,
    "relocated_pages": {"software": moves.get("software", 0), "tdx": moves.get("tdx", 0)},
    "mismatches": moves.get("mismatches"),
    "kernel_reports": None,
    "leaked_pages": moves.get("leaked"),
}, indent=2))
END
"$TOP/tools/vm/kernel-reports" --json "$BUILD/soak.json" "$(kernel_log "$OUT/model")" "$(kernel_log "$OUT/relocate")" || {
	[ "$status" -ne 0 ] || status=1
}
cat "$BUILD/soak.json"
if [ "$status" -eq 0 ]; then say "PASS (build/soak.json, build/soak/soak.svg)"; else say "FAIL: exit status $status (build/soak/)"; fi
exit "$status"
