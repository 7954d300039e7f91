#!/usr/bin/env bash
# Is each acknowledgement behind a flush of the device? kill -9 cannot show that one is missing. One producer sends
# RECORDS records with acks=all, each after the acknowledgement of the one before, to a broker on a loop device of its
# own; the device's completed flush requests (/proc/diskstats, the kernel's field 16) must have risen by at least as
# many. The control: a build whose journal is written without its flush must fail this. Needs root; exit status 77
# says that it was skipped.
#   RECORDS         how many (200)
#   BROKER          the broker; default: this repository's, release before debug
#   PLANTED_BROKER  one built with the feature `planted`; default: it is built, under the target directory
set -euo pipefail
source "$(dirname "$0")/loop-disk.sh"
RECORDS=${RECORDS:-200}
own_broker; python_client; loop_disk 512M
if [ -z "${PLANTED_BROKER:-}" ]; then
  # Beside the others, for their dependencies are the same; and away from where one looks for a broker.
  "${CARGO:-cargo}" build --quiet --manifest-path "$ROOT/Cargo.toml" --package corelog --features planted --target-dir "$TARGET"
  PLANTED_BROKER=$TARGET/planted-corelog
  mv "$TARGET/debug/corelog" "$PLANTED_BROKER"
fi

flushes() { awk -v device="$LOOP" '$3 == device { print $19 }' /proc/diskstats; }
[[ $(flushes) =~ ^[0-9]+$ ]] || skip "this kernel does not count flushes"
before=$(flushes); for _ in 1 2 3; do dd if=/dev/zero of="$DISK/probe" bs=4096 count=1 oflag=dsync conv=notrunc status=none; done
[ $(($(flushes) - before)) -ge 3 ] || skip "loop devices do not count flushes here"

# count BINARY: sets ACKNOWLEDGED and FLUSHES
count() {
  rm -rf "$DISK/data"
  start_broker "$1" --memory 64MiB --journal 64MiB || exit 1
  read -r ACKNOWLEDGED FLUSHES < <("$PYTHON" - "$PORT" "$RECORDS" "$LOOP" <<'P'
import sys
from confluent_kafka import Producer

port, records, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def flushes():
    with open("/proc/diskstats") as stats:
        return next(int(line.split()[18]) for line in stats if line.split()[2] == device)


acknowledged = 0


def delivered(error, _message):
    global acknowledged
    acknowledged += error is None


producer = Producer({"bootstrap.servers": f"127.0.0.1:{port}", "acks": "all", "linger.ms": 0})
# The topic is made by the first record, with flushes of its own.
producer.produce("flushes", b"first")
producer.flush(60)
before = flushes()
for number in range(records):
    producer.produce("flushes", b"%d" % number, on_delivery=delivered)
    producer.flush(60)
print(acknowledged, flushes() - before)
P
)
  stop_broker || { echo "the broker did not stop cleanly:"; cat "$WORK/log"; exit 1; }
}

count "$BROKER"
echo "$ACKNOWLEDGED acknowledged one at a time, $FLUSHES flushes of $LOOP"
[ "$ACKNOWLEDGED" = "$RECORDS" ] && [ "$FLUSHES" -ge "$RECORDS" ] || { echo "FAILED: fewer flushes than acknowledgements"; exit 1; }
export CORELOG_PLANTED=WriteWithoutFlush
count "$PLANTED_BROKER"
echo "control, without the flush: $ACKNOWLEDGED acknowledged, $FLUSHES flushes"
[ "$ACKNOWLEDGED" = "$RECORDS" ] && [ "$FLUSHES" -lt "$RECORDS" ] || { echo "FAILED: the control is not told apart"; exit 1; }
echo "flush-count: passed"
