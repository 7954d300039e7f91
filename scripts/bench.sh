#!/usr/bin/env bash
# Compares this repository's broker with Apache Kafka on this machine: same disk, same load generator, same records,
# turn by turn within one run (A B A B), so that the ratios hold where absolute figures do not.
#   scripts/bench.sh [WORKLOAD...]     large small100 small latency tail profile engine disk; without any: all of them
#     large     1 KB records, 64 KiB batches, 6 partitions, saturated; then each topic is read back from its start
#     small100  100 B records, 16 KiB batches, 6 partitions, saturated
#     small     100 B records, one record a request, 64 connections, 96 partitions, saturated
#     latency   as large, open loop, at half of the rate that Kafka reached in large
#     tail      as latency at half of that, with a consumer at the end of the log
#     profile   perf of the broker under large: where the time goes
#     engine    journal-bench: durable commits below the log
#     disk      fio: what the disk writes at 128 KiB, if fio is installed
# Needs Python 3; for Kafka a JDK, and Maven unless KAFKA_LIBS is set. Starts brokers of its own on free ports.
#   OUT          where results go (bench-results/DATE-CPUS)
#   DATA         directory on the disk to be measured, for the brokers' data ($TMPDIR/corelog-bench); 40 GB
#   SECONDS_EACH, WARMUP_EACH, ROUNDS  of each run (5, 2, 2)
#   KAFKA_LIBS   folder of Kafka 4.1's jars; without it they are fetched once through Maven
#   MEMORY       --memory of the broker (its default; Kafka has 1 GiB of heap, and the page cache beside it)
#   NICE         nice level of brokers and loadgen alike, such as -15 on a machine with other work (0)
#   QUIET_WAIT   seconds to wait before each run for others on the machine to be quiet (15)
#   TRIES        how often a run may be repeated that others disturbed; the least disturbed one counts (3)
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
for BIN in corelog loadgen journal-bench; do
  [ -x "$TARGET/release/$BIN" ] || (cd "$ROOT" && cargo build --release -p corelog -p corelog-loadgen)
done
if [ -z "${KAFKA_LIBS:-}" ]; then
  KAFKA_LIBS=${XDG_CACHE_HOME:-$HOME/.cache}/corelog-bench/kafka
  if ! [ -f "$KAFKA_LIBS/.complete" ]; then
    mkdir -p "$KAFKA_LIBS"
    mvn -q -B -f "$ROOT/scripts/interop/pom.xml" dependency:copy-dependencies -DoutputDirectory="$KAFKA_LIBS"
    touch "$KAFKA_LIBS/.complete"
  fi
fi
export KAFKA_LIBS BENCH_BIN="$TARGET/release"
exec python3 "$ROOT/scripts/bench.py" "$@"
