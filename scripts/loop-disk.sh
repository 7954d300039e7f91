# A disk of one's own for the scripts that need to fill it, to make it read-only, or to count its flushes; sourced by
# them. Gives: loop_disk SIZE (sets DISK, LOOP and WORK), python_client (sets PYTHON), free_port, start_broker, and
# the clean-up at exit. Without root or loop devices it leaves with status 77, which means: skipped.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
BROKER_PID=

skip() { echo "skipped: $*"; exit 77; }

clean_up() {
  [ -z "$BROKER_PID" ] || { kill -9 "$BROKER_PID" 2>/dev/null; wait "$BROKER_PID" 2>/dev/null; }
  [ -z "${DISK:-}" ] || umount "$DISK" 2>/dev/null
  [ -z "${LOOP:-}" ] || losetup -d "/dev/$LOOP" 2>/dev/null
  [ -z "${WORK:-}" ] || rm -rf "$WORK"
}
trap clean_up EXIT

# loop_disk SIZE: ext4 on a file, mounted on $DISK as the loop device $LOOP
loop_disk() {
  local device
  [ "$(id -u)" = 0 ] || skip "loop devices need root"
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/corelog-loop.XXXXXX")
  truncate -s "$1" "$WORK/image" && mkfs.ext4 -q -F -m 0 "$WORK/image" || skip "there is no mkfs.ext4"
  device=$(losetup -f --show "$WORK/image" 2>/dev/null) || skip "there are no loop devices"
  LOOP=${device#/dev/} DISK=$WORK/disk
  mkdir "$DISK"; mount "$device" "$DISK" || skip "mounting is not permitted"
}

# python_client: a Python with confluent-kafka, shared with kill9.sh
python_client() {
  local venv=${KILL9_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/corelog-kill9}/venv client=confluent-kafka==2.16.1
  PYTHON=$venv/bin/python
  [ -f "$venv/$client" ] && return 0
  rm -rf "$venv"; mkdir -p "$(dirname "$venv")"
  python3 -m venv "$venv" 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && python3 -m venv "$venv"; } || skip "there is no python3-venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$client" && touch "$venv/$client" || skip "$client cannot be installed"
}

free_port() { while PORT=$((20000 + RANDOM % 12000)); (exec 9<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do :; done; }

# own_broker: this repository's, release before debug, in $BROKER
own_broker() {
  local found
  for found in "$TARGET/release/corelog" "$TARGET/debug/corelog"; do [ ! -x "$found" ] || break; done
  BROKER=${BROKER:-$found}
  [ -x "$BROKER" ] || { echo "there is no $BROKER: build it first, cargo build --release"; exit 1; }
}

# start_broker BINARY FLAG...: on $DISK/data and a free $PORT, its log in $WORK/log; waits until it listens
start_broker() {
  local binary=$1; shift; free_port
  "$binary" --data-dir "$DISK/data" --listen "127.0.0.1:$PORT" "$@" >"$WORK/log" 2>&1 & BROKER_PID=$!
  for _ in $(seq 600); do
    ! grep -q "listening on" "$WORK/log" || return 0
    kill -0 $BROKER_PID 2>/dev/null || { wait $BROKER_PID; echo "the broker ended with status $?:"; cat "$WORK/log"; BROKER_PID=; return 1; }
    sleep 0.1
  done
  echo "the broker does not listen:"; cat "$WORK/log"; return 1
}

# stop_broker: with SIGTERM; the status is the broker's
stop_broker() { local pid=$BROKER_PID; BROKER_PID=; kill -TERM "$pid"; wait "$pid"; }
