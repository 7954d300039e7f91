#!/usr/bin/env bash
# Kills the broker CYCLES times under real idempotent producers, restarts it (with other cores in some of the runs),
# reads everything back and accounts for every record; see kill9.py for what is reported. Further arguments go there.
# The last line is "0 lost, 0 duplicated, 0 reordered", or the violations and a non-zero status.
#   CYCLES       how many kills (100)
#   CORES_LISTS  lists of cores, parted by ';' ("0;0,1", or "0" on one CPU)
#   BROKER_CMD   command of the broker, with {data}, {port}, {cores}; default: this repository's, release before debug
#   KILL9_CACHE  where the Python environment is kept ($XDG_CACHE_HOME/corelog-kill9)
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
VENV=${KILL9_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/corelog-kill9}/venv
CLIENT=confluent-kafka==2.16.1
if ! [ -f "$VENV/$CLIENT" ]; then
  rm -rf "$VENV"; mkdir -p "$(dirname "$VENV")"
  if ! python3 -m venv "$VENV" 2>/dev/null; then
    root=; [ "$(id -u)" = 0 ] || root=sudo
    $root apt-get update -qq && $root apt-get install -y -qq python3-venv >/dev/null
    python3 -m venv "$VENV"
  fi
  "$VENV/bin/pip" install --quiet --disable-pip-version-check "$CLIENT" && touch "$VENV/$CLIENT"
fi
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
for BIN in "$TARGET/release/corelog" "$TARGET/debug/corelog"; do [ ! -x "$BIN" ] || break; done
BROKER_CMD=${BROKER_CMD:-"$BIN serve --data-dir {data} --listen 127.0.0.1:{port} --advertise 127.0.0.1:{port} --cores {cores}"}
if [ "$(nproc)" -gt 1 ]; then DEFAULT_CORES="0;0,1"; else DEFAULT_CORES=0; fi
while PORT=$((20000 + RANDOM % 12000)); (exec 9<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do :; done
exec "$VENV/bin/python" "$ROOT/scripts/kill9.py" --broker "$BROKER_CMD" --cores "${CORES_LISTS:-$DEFAULT_CORES}" \
  --cycles "${CYCLES:-100}" --port "$PORT" "$@"
