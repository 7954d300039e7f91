#!/usr/bin/env bash
# Interop checks: real clients, as published, against a broker.
#   scripts/interop/run.sh [HOST:PORT]
# Without HOST:PORT it starts this repository's broker (release build if there is one, else debug) on a free port with
# a temporary data directory, and then also kills it with SIGKILL, restarts it and reads everything again.
# Installs what it needs (kcat, a JDK, Node.js and Go through apt, the clients through their languages' registries)
# unless it is there.
# The last line is "N passed, N failed, N skipped"; the status is non-zero if anything failed.
#   INTEROP_LINES     size of the corpus: a number of lines (200000), or all
#   INTEROP_ONLY      extended regex: run only the checks whose names match
#   INTEROP_JVM=each  one JVM for each call of a tool, as from a shell (slow), instead of one for all
#   INTEROP_DATA_DIR  with HOST:PORT: that broker's data directory, for dump-log
#   INTEROP_RESTART_CORES  cores after the restart; chosen at random between "same" and "other" if not given
#   INTEROP_CACHE     where jars are kept ($XDG_CACHE_HOME/corelog-interop)
#   BROKER_CMD        command of the broker to start, with {data}, {port}, {cores}
set -uo pipefail
export LC_ALL=C.UTF-8
HERE=$(cd "$(dirname "$0")" && pwd); ROOT=$(cd "$HERE/../.." && pwd)
CACHE=${INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/corelog-interop}
WORK=$(mktemp -d "${TMPDIR:-/tmp}/corelog-interop.XXXXXX"); RUN=$(basename "$WORK" | cut -d. -f2)
. "$HERE/lib.sh"; . "$HERE/real_input.sh"; . "$HERE/kcat.sh"; . "$HERE/tools.sh"; . "$HERE/clients.sh"; . "$HERE/share.sh"
finish() { local rc=$?; tools_stop; broker_kill; if [ $rc = 0 ]; then rm -rf "$WORK"; else echo "left for inspection: $WORK" >&2; fi; }
trap finish EXIT
give_up() { echo "FAIL  $*"; tail -n 15 "$WORK/log" 2>/dev/null; FAILED=$((FAILED + 1)); tally; exit 1; }

need kcat kcat || give_up "kcat cannot be installed"
need javac default-jdk-headless || give_up "no JDK can be installed"
need mvn maven || give_up "maven cannot be installed"
[ -n "$(find /var/lib/apt/lists -name '*Packages*' -print -quit 2>/dev/null)" ] || apt_update || true
jars || give_up "Kafka's tools cannot be fetched"

if [ $# -gt 0 ]; then
  OWN_BROKER= BOOTSTRAP=$1 DATA_DIR=${INTEROP_DATA_DIR:-}
else
  OWN_BROKER=1 BOOTSTRAP=127.0.0.1:$(free_port) DATA_DIR=$WORK/data
  TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
  for BIN in "$TARGET/release/corelog" "$TARGET/debug/corelog"; do [ ! -x "$BIN" ] || break; done
  BROKER_CMD=${BROKER_CMD:-"$BIN serve --data-dir {data} --listen 127.0.0.1:{port} --advertise 127.0.0.1:{port} --cores {cores}"}
  if [ "$(nproc)" -gt 1 ]; then CORES=0,1 OTHER=0; else CORES=0 OTHER=0; fi
  broker_start $CORES || give_up "the broker does not start: $BROKER_CMD"
fi
echo "interop against $BOOTSTRAP${OWN_BROKER:+ (started here: ${BROKER_CMD%% *})}"
tools_start

kcat_checks
tools_checks
clients_checks
share_checks
real_input
if [ -n "$OWN_BROKER" ]; then
  case ${INTEROP_RESTART_CORES:-} in
    '') [ $((RANDOM % 2)) = 0 ] || CORES=$OTHER ;;
    same) ;;
    other) CORES=$OTHER ;;
    *) CORES=$INTEROP_RESTART_CORES ;;
  esac
  restart() { broker_kill; broker_start "$CORES"; }
  echo "kill -9, restart with --cores $CORES"
  restart || give_up "the broker does not start again"
  real_input_after_restart
  share_checks_behind " after kill -9"
else
  share_checks_behind
  check "after kill -9" skip "the broker was not started here"
fi
tally
[ $FAILED = 0 ] && [ $PASSED -gt 0 ]
