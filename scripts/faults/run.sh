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
#
# What the build of dc41239 showed, on two busy cores and ext4. Red:
#   announce.many         others get no answer in 20 s         announce.large      3 MB get no answer in 10 s
#   answers.fetch         5.1 GB of 314 MiB, others 8.8 s      answers.metadata    2.4 GB of 314 MiB, others 3.4 s
#   big_arrays.distinct   others 4.8 s (users), 3.2 (topics)   big_journal         597 of 314 MiB, also when idle
#   bombs                 others 2.7 s                         conn_flood          exit 1, "the disk has failed"
#   delete_topic          others 4.4 s (CreateTopics)          fat_member.big      the neighbour's heartbeat: error 14
#   fat_member.stay       682 of 314 MiB                       fetch_waits.two     210 us a fetch instead of 52
#   fetch_waits.gone      180 MiB kept, others 20 s            few_fds.partitions  exit 1, and again after the start
#   few_fds.sentence      220 lines in 10 s                    few_fds.connections produce and others hang
#   few_fds.soft          exit 1                               few_fds.both        exit 1, and again after the start
#   first_checkpoint      12 lines "removing a directory"      full_disk.kill9     the group: error 15; no start
#   full_disk.term        the group: error 15; no start        full_disk.stop      status 0 and "on stable storage"
#   idle_cache            1172 MiB of 339 when idle            many_topics_request others 13 s (CreateTopics)
#   mixed_load.512, .256  4.0 and 5.0 GB; a GB costs 5x        offsets_load.4M     0.9 to 2.2 s
#   one_bad_file.gone     exit 1                               one_bad_file.cut    exit 1
#   one_fetch             others 10 s                          pinned              1.1 GB of 314 MiB, by its answers
#   producer_ids          14 s                                 producers           2.5 GB of 595 MiB, start 2.5 s
#   sessions              1.6 GB of 314 MiB                    smaller_journal.*   panic at every start
#   topics_changed        25 to 50 ms for each new topic       transactional_ids   245 of 173 MiB
# Green: big_arrays.equal, churn, crash_loop, fat_member.gone, full_then_start, fuzz_live, many_partitions,
# one_bad_file.index and .checkpoints.
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
