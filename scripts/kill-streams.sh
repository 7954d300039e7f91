#!/usr/bin/env bash
# Kafka Streams' word count with exactly_once_v2, while the application and the broker are killed with SIGKILL at
# random moments. Every word of the input must be counted once: see kill-streams/WordCount.java for how that is judged.
# The last line is "N passed, N failed, N skipped"; the status is non-zero if the counts are not exact.
#   RECORDS      lines of the input (1000000)
#   KILLS        how often each of the two is killed (20)
#   SEED         of the random moments (a random one; printed)
#   BROKER_CMD   command of the broker, with {data}, {port}, {cores}; default: this repository's, release before debug
#   KILL_STREAMS_CACHE  where jars are kept ($XDG_CACHE_HOME/corelog-kill-streams)
set -uo pipefail
export LC_ALL=C.UTF-8
ROOT=$(cd "$(dirname "$0")/.." && pwd); HERE=$ROOT/scripts/kill-streams
RECORDS=${RECORDS:-1000000} KILLS=${KILLS:-20} RANDOM=${SEED:=$$$RANDOM}
CACHE=${KILL_STREAMS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/corelog-kill-streams}
WORK=$(mktemp -d "${TMPDIR:-/tmp}/corelog-kill-streams.XXXXXX"); DATA_DIR=$WORK/data
. "$ROOT/scripts/interop/lib.sh"
APPLICATION= GENERATOR=
finish() { local rc=$?; kill -9 $APPLICATION $GENERATOR 2>/dev/null; broker_kill; if [ $rc = 0 ]; then rm -rf "$WORK"; else echo "left for inspection: $WORK" >&2; fi; }
trap finish EXIT
give_up() { echo "FAIL  $*"; tail -n 15 "$WORK/log" "$WORK/application.log" 2>/dev/null; FAILED=1; tally; exit 1; }

need kcat kcat && need javac default-jdk-headless && need mvn maven || give_up "what is needed cannot be installed"
LIBS=$CACHE/jars-$(cat "$HERE/pom.xml" "$HERE/WordCount.java" | sha256sum | cut -c1-16)
if ! [ -f "$LIBS/.complete" ]; then
  rm -rf "$LIBS"; mkdir -p "$LIBS"
  mvn -q -B -f "$HERE/pom.xml" dependency:copy-dependencies -DoutputDirectory="$LIBS" >>"$WORK/log" 2>&1 &&
    javac -d "$LIBS" -cp "$LIBS/*" "$HERE/WordCount.java" >>"$WORK/log" 2>&1 && touch "$LIBS/.complete" || give_up "Kafka Streams cannot be fetched"
fi
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
for BIN in "$TARGET/release/corelog" "$TARGET/debug/corelog"; do [ ! -x "$BIN" ] || break; done
BROKER_CMD=${BROKER_CMD:-"$BIN serve --data-dir {data} --listen 127.0.0.1:{port} --advertise 127.0.0.1:{port} --cores {cores} --set group.initial.rebalance.delay.ms=0"}
BOOTSTRAP=127.0.0.1:$(free_port); if [ "$(nproc)" -gt 1 ]; then ALL_CORES=(0,1 0); else ALL_CORES=(0); fi
cores() { echo "${ALL_CORES[RANDOM % ${#ALL_CORES[@]}]}"; }
word_count() { exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx512m -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$LIBS:$LIBS/*" WordCount "$1" "$BOOTSTRAP" "${@:2}"; }
application_start() { (word_count run "$WORK/state") >>"$WORK/application.log" 2>&1 & APPLICATION=$!; disown; }
running() { [ "$(grep -c '^RUNNING' "$WORK/application.log")" -gt "$1" ]; }
# between_ms LEAST MOST: sleeps for a random time
between_ms() { local ms=$(($1 + RANDOM % ($2 - $1 + 1))); sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"; }

echo "seed $SEED: $RECORDS lines, $KILLS kills of the application and of the broker, at $BOOTSTRAP"
broker_start "$(cores)" || give_up "the broker does not start"
(word_count create) >>"$WORK/log" 2>&1 || give_up "the topics cannot be made"
application_start
# the input comes for as long as there are kills
(word_count generate "$RECORDS" $((KILLS * 6 + 5))) >>"$WORK/log" 2>&1 & GENERATOR=$!
BEGAN=$SECONDS
for ((i = 1; i <= KILLS; i++)); do
  # the application is killed where it processes, where it restores, or while the broker is away
  seen=$(grep -c '^RUNNING' "$WORK/application.log"); [ $((RANDOM % 3)) = 0 ] || eventually 60 running "$((seen > 0 ? seen - 1 : 0))" || true
  between_ms 1000 4000
  kill -0 "$APPLICATION" 2>/dev/null || give_up "the application ended by itself before kill $i"
  case $((RANDOM % 3)) in
    0) kill -9 "$APPLICATION"; between_ms 0 1500; application_start; between_ms 500 3000; broker_kill; broker_start "$(cores)" ;;
    1) broker_kill; between_ms 0 500; kill -9 "$APPLICATION"; application_start; broker_start "$(cores)" ;;
    2) broker_kill; broker_start "$(cores)"; between_ms 0 3000; kill -9 "$APPLICATION"; application_start ;;
  esac || give_up "the broker does not start again after kill $i"
  [ $((i % 5)) != 0 ] || echo "killed $i times each in $((SECONDS - BEGAN)) s"
done
wait $GENERATOR || give_up "the input was not written"
GENERATOR=
( word_count judge "$RECORDS" "${PATIENCE:-600}" ) >"$WORK/verdict" 2>>"$WORK/log"; RC=$?
tail -n 1 "$WORK/verdict"
if [ $RC = 0 ]; then PASSED=1; else FAILED=1; fi
kill -0 "$APPLICATION" 2>/dev/null || { echo "FAIL  the application ended by itself"; FAILED=1; }
echo "$((SECONDS - BEGAN)) s"
tally
[ $FAILED = 0 ]
