#!/usr/bin/env bash
# Faults that a broker met, and what it must not do again: each case is bad input or bad luck, and has a verdict.
#
#   scripts/faults/run.sh [NAME...]     cases or variants by name, such as `few_fds` or `few_fds.both`; all by default
#   scripts/faults/run.sh --list        their names
#   BROKER    the broker; default: this repository's, release before debug
#   LOADGEN   loadgen, for mixed_load; default: beside the broker
#   LONG=1    the long versions: 8 million commits, 10 000 partitions, minutes of fuzzing
#   LIMIT     seconds for each case (240, with LONG=1 1200)
#   TMPDIR    where brokers keep their data meanwhile: up to 3 GB
#
# One line for each case, `PASS name: figures` or `FAIL name: rule (figures) | other figures`, and a last one such as
# `faults: 12 passed, 3 failed`; the status is 1 if any failed. Python's standard library is enough. What fills a disk
# wants root (loop devices) and is else skipped. A case that failed by time alone is tried once more, since others may
# use the machine; figures are of two cores, so these verdicts are no part of CI.
#
# Rules of every case: the broker is alive to the end; its VmHWM is at most 1.1 x --memory + 32 MiB; no small request of
# other clients waits over 1 s; groups are served; a start takes 2 s at most unless the case starves the disk; what was
# asked for is taken, or refused with its code; nothing acknowledged is lost. Rules of one case stand in its file.
#
# Files: `cases/` one file for each case; `case.py` a broker and the rules; `others.py` the other clients; `wire.py` and
# `schema.py` a client that speaks by the project's own schema; `run.py` runs and counts.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
if [ -z "${BROKER:-}" ]; then
  for BROKER in "$TARGET/release/corelog" "$TARGET/debug/corelog"; do [ ! -x "$BROKER" ] || break; done
fi
BROKER=$(realpath -m "$BROKER")
if [ ! -x "$BROKER" ] && [ "${1:-}" != --list ]; then
  echo "there is no $BROKER: build it first, cargo build --release"; exit 1
fi
export BROKER PYTHONDONTWRITEBYTECODE=1
exec python3 "$ROOT/scripts/faults/run.py" "$@"
