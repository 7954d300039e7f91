#!/usr/bin/env bash
# A data directory that cannot be written, and a disk that runs full under real producers: a sentence, an error, and
# nothing acknowledged is lost; when there is room again, the broker takes records again without a restart. Needs root
# (loop devices); exit status 77 says that it was skipped.
#   BROKER  the broker; default: this repository's, release before debug
set -euo pipefail
source "$(dirname "$0")/loop-disk.sh"
own_broker; python_client; loop_disk 256M
FLAGS=(--memory 64MiB --journal 32MiB)

echo "--- a read-only disk"
mount -o remount,ro "$DISK"
if start_broker "$BROKER" "${FLAGS[@]}" >"$WORK/said"; then echo "FAILED: it starts"; exit 1; fi
grep "^corelog: .*$DISK/data.*Read-only file system" "$WORK/said" || { cat "$WORK/said"; echo "FAILED: no sentence"; exit 1; }
mount -o remount,rw "$DISK"

echo "--- a directory that becomes read-only between two starts"
start_broker "$BROKER" "${FLAGS[@]}"; stop_broker
mount -o remount,ro "$DISK"
if start_broker "$BROKER" "${FLAGS[@]}" >"$WORK/said"; then echo "FAILED: it starts"; exit 1; fi
grep "^corelog: .*must be writable.*Read-only file system" "$WORK/said" || { cat "$WORK/said"; echo "FAILED: no sentence"; exit 1; }
mount -o remount,rw "$DISK"

echo "--- a full disk"
start_broker "$BROKER" "${FLAGS[@]}"
"$PYTHON" - "$PORT" <<'P'
import os
import sys
import time
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address = {"bootstrap.servers": f"127.0.0.1:{sys.argv[1]}"}
admin = AdminClient(address)
for future in admin.create_topics([NewTopic(name, 1, 1) for name in ("filler", "kept")]).values():
    future.result(30)
acknowledged = {"filler": {}, "kept": {}}
refused = []


def produce(topic, value, patience_ms):
    """One record; whether it was acknowledged."""
    done = []
    producer = Producer({**address, "acks": "all", "linger.ms": 0, "message.timeout.ms": patience_ms})
    producer.produce(topic, value, on_delivery=lambda error, message: done.append((error, message)))
    producer.flush(patience_ms / 1000 + 30)
    error, message = done[0]
    if error is None:
        acknowledged[topic][message.offset()] = value
    else:
        refused.append(error)
    return error is None


def consume(topic):
    consumer = Consumer({**address, "group.id": "unused", "enable.auto.commit": False})
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 30)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = {}
    while len(found) < end:
        message = consumer.poll(30)
        assert message is not None and message.error() is None, message and message.error()
        found[message.offset()] = message.value()
    consumer.close()
    return found


def check(topic):
    found = consume(topic)
    lost = [offset for offset, value in acknowledged[topic].items() if found.get(offset) != value]
    assert not lost, f"{topic}: {len(lost)} of {len(acknowledged[topic])} acknowledged records are lost"


assert produce("kept", b"before", 30_000)
written = 0
while produce("filler", os.urandom(900_000), 5_000):
    written += 1
    assert written < 1000, "the disk never runs full"
print(f"refused after {written} records of 900 kB: {refused[-1].str()}")
check("filler"), check("kept")
print("all acknowledged records are there while the disk is full")
admin.delete_topics(["filler"])["filler"].result(30)
end = time.monotonic() + 120
while not produce("kept", b"after", 5_000):
    assert time.monotonic() < end, "the broker does not take records again"
check("kept")
print("with room again, records are taken again")
P
stop_broker
echo "bad-disk: passed"
