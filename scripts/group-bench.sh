#!/usr/bin/env bash
# How long a large group takes to get stable, on this repository's broker and on Apache Kafka, turn by turn within one
# run. In each turn a group reads a topic that is written to slowly, and then:
#   start   all members come, spread over 5 s
#   join    one more comes                             }
#   leave   one says farewell                          } EVENTS times
#   kill    one vanishes; its session has to run out   }
# It counts until the last change of anybody's partitions, behind which each partition has one owner and each member
# has partitions. It also tells which members had to stop reading what they kept, and how long records waited.
#   scripts/group-bench.sh [PROTOCOL...]   without any: all of them
#     eager        classic protocol, range assignor
#     cooperative  classic protocol, cooperative-sticky assignor
#     consumer     KIP-848, the broker's uniform assignor
# The status is non-zero if a group did not get stable or a partition had two owners. Needs Go and a JDK, and Maven
# unless KAFKA_LIBS is set. Starts brokers of its own on free ports and ends them.
#   OUT          where results go (bench-results/DATE-CPUS/group-MEMBERS)
#   MEMBERS, PARTITIONS  of the group and its topic (200, 400)
#   ROUNDS       turns of each broker with each protocol (3); one takes about three minutes
#   EVENTS       joins, leaves and kills in each turn (3)
#   BROKERS      which brokers, and in which order (corelog kafka)
#   SESSION      session timeout in seconds, of both protocols (10); all else is Kafka's default
#   QUIET        a group is stable after so many seconds without a change (7); more than a heartbeat's interval of 5
#   BIN          the broker ($CARGO_TARGET_DIR/release/corelog, built if it is not there)
#   COMMIT       what BIN was built from (this tree's)
#   KAFKA_LIBS   folder of Kafka 4.1's jars; without it they are fetched once through Maven
#   NICE         nice level of brokers and clients alike, such as -15 on a machine with other work (0)
#   HOLD         no turn begins while this file exists, so that others on the machine can measure
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
usage() { sed -n '2,/^set /{/^#/s/^# \?//p}' "$0"; }
give_up() { echo "group-bench: $*" >&2; exit 1; }
needs() { command -v "$1" >/dev/null || give_up "$1 is needed (Debian: $2)"; }
case "${1:-}" in -h | --help) usage; exit ;; esac
needs go golang-go
needs java default-jdk-headless

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/corelog-bench
if [ -z "${KAFKA_LIBS:-}" ]; then
  KAFKA_LIBS=$CACHE/kafka
  if ! [ -f "$KAFKA_LIBS/.complete" ]; then
    needs mvn maven
    mkdir -p "$KAFKA_LIBS"
    mvn -q -B -f "$ROOT/scripts/interop/pom.xml" dependency:copy-dependencies -DoutputDirectory="$KAFKA_LIBS" ||
      give_up "Kafka's jars cannot be fetched"
    touch "$KAFKA_LIBS/.complete"
  fi
fi
compgen -G "$KAFKA_LIBS/kafka-server-4*.jar" >/dev/null || give_up "there are no jars of Kafka 4 in KAFKA_LIBS"

if [ -z "${BIN:-}" ]; then
  BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release/corelog
  [ -x "$BIN" ] || (cd "$ROOT" && cargo build --release -p corelog)
fi
[ -x "$BIN" ] || give_up "there is no broker at $BIN"
COMMIT=${COMMIT:-$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo '?')}

PROGRAM=$CACHE/group-bench-$(cat "$ROOT"/scripts/group-bench/* | sha256sum | cut -c1-16)
[ -x "$PROGRAM" ] || (mkdir -p "$CACHE" && cd "$ROOT/scripts/group-bench" && go build -o "$PROGRAM" .) ||
  give_up "scripts/group-bench cannot be built"

NICE=${NICE:-0}
if [ "$NICE" != 0 ]; then
  renice -n "$NICE" -p $$ >/dev/null || give_up "a nice level of $NICE is not allowed"
  # Where Linux schedules by session, a nice level counts only within.
  [ ! -e /proc/$$/autogroup ] || echo "$NICE" >/proc/$$/autogroup
fi
MEMBERS=${MEMBERS:-200}
# Some connections for each member, on both sides.
ulimit -n "$(ulimit -H -n)"
WORK=$(mktemp -d "${TMPDIR:-/tmp}/corelog-group-bench.XXXXXX")
CHILD=
finish() { [ -z "$CHILD" ] || { kill "$CHILD" && wait "$CHILD"; } 2>/dev/null || true; rm -rf "$WORK"; }
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"$PROGRAM" -corelog "$BIN" -kafka-libs "$KAFKA_LIBS" -data "$WORK" -commit "$COMMIT" -hold "${HOLD:-}" -nice "$NICE" \
  -out "${OUT:-$ROOT/bench-results/$(date +%F)-$(nproc)cpus/group-$MEMBERS}" -members "$MEMBERS" \
  -partitions "${PARTITIONS:-400}" -rounds "${ROUNDS:-3}" -events "${EVENTS:-3}" -session "${SESSION:-10}" \
  -quiet "${QUIET:-7}" -brokers "${BROKERS:-corelog kafka}" ${1:+-protocols "$*"} &
CHILD=$!
rc=0; wait "$CHILD" || rc=$?
CHILD=
exit $rc
