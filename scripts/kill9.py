"""Crash harness: a broker, real producers, SIGKILL, and an account of every record afterwards.

Producers (librdkafka, acks=all, idempotent) write numbered records to fixed partitions while the broker is killed and
restarted. At the end everything is read back and compared with what the broker acknowledged. Reported are

  lost         an acknowledged record is not there (or a record that a consumer was already shown is not)
  duplicated   a record is there twice, acknowledged or not
  reordered    a producer's records of a partition do not stand in the order in which they were sent
  misplaced    an acknowledged record is not at the acknowledged offset, or a consumer saw another record there before
  damaged      a value is not one that was sent to that partition
  fatal        a producer was told that its sequence is broken, which recovery must prevent

A record whose outcome is unknown to its producer may be there once or not at all. Run through kill9.sh.
"""

import argparse
import collections
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib

# A record is known by (producer, partition, sequence).
TOPIC = "kill9"


def value_of(record, size):
    """The value of a record: its identity, its size and a checksum, and content that follows from them."""
    head = "%d %d %d %d " % (*record, size)
    seed = zlib.crc32(head.encode())
    filler = random.Random(seed).randbytes(min(size, 512)) * (size // 512 + 1)
    body = head.encode() + filler[:size]
    return body + b" %08x" % zlib.crc32(body)


def record_of(value):
    """The inverse of value_of; None if the value is damaged."""
    try:
        body, crc = value[:-9], value[-9:]
        if crc != b" %08x" % zlib.crc32(body):
            return None
        producer, partition, sequence, _size = (int(x) for x in body.split(b" ", 4)[:4])
        return producer, partition, sequence
    except (ValueError, TypeError):
        return None


def judge(acked, sent, shown, log):
    """acked: {record: offset}. sent: {(producer, partition): next sequence}. shown: {(partition, offset): record or
    None if damaged}. log: [(partition, offset, record or None)], in order of offset within a partition.
    Returns {kind of violation: [description]}."""
    found = {kind: [] for kind in ("lost", "duplicated", "reordered", "misplaced", "damaged")}
    at, place, last = {}, {}, {}
    for partition, offset, record in log:
        place[partition, offset] = record
        if record is None or record[1] != partition or record[2] >= sent.get(record[:2], 0):
            found["damaged"].append(f"{partition}:{offset} holds {record}")
            continue
        if record in at:
            found["duplicated"].append(f"{record} at {at[record]} and {partition}:{offset}")
            continue
        at[record] = f"{partition}:{offset}"
        if record[2] < last.get(record[:2], -1):
            found["reordered"].append(f"{record} at {partition}:{offset} after sequence {last[record[:2]]}")
        last[record[:2]] = max(record[2], last.get(record[:2], -1))
    for record, offset in acked.items():
        if record not in at:
            found["lost"].append(f"{record}, acknowledged at {record[1]}:{offset}")
        elif place.get((record[1], offset)) != record:
            found["misplaced"].append(f"{record}, acknowledged at {record[1]}:{offset}, is at {at[record]}")
    for (partition, offset), record in shown.items():
        if (partition, offset) not in place:
            found["lost"].append(f"{record}, shown to a consumer at {partition}:{offset}")
        elif place[partition, offset] != record:
            found["misplaced"].append(f"{partition}:{offset} showed {record}, holds {place[partition, offset]}")
    return found


def self_test():
    """Each kind of violation, planted into a clean run, must be reported, and nothing else."""
    log = [(p, 3 * s + k, (k, p, s)) for p in range(4) for s in range(50) for k in range(3)]
    acked = {r: o for _, o, r in log}
    sent = {(k, p): 50 for k in range(3) for p in range(4)}
    shown = {(p, o): r for p, o, r in log[:300]}

    def kinds(acked=acked, shown=shown, log=log):
        return {k for k, v in judge(acked, sent, shown, log).items() if v}

    swapped = log[:]
    swapped[3], swapped[6] = (0, 3, log[6][2]), (0, 6, log[3][2])
    unacked = {r: o for r, o in acked.items() if r not in (log[3][2], log[6][2])}
    expected = [
        (set(), kinds()),
        (set(), kinds(acked={r: o for r, o in acked.items() if r != log[599][2]}, log=log[:-1])),  # unknown and absent
        ({"lost"}, kinds(log=log[:-1])),
        ({"lost"}, kinds(acked=unacked, log=log[:3] + log[4:])),  # shown, then gone
        ({"duplicated"}, kinds(log=log + [(3, 150, log[-1][2])])),
        ({"reordered"}, kinds(acked=unacked, shown={}, log=swapped)),
        ({"reordered", "misplaced"}, kinds(log=swapped)),
        ({"misplaced"}, kinds(acked={**acked, log[5][2]: 6})),
        ({"damaged"}, kinds(log=log + [(3, 150, None)])),
        ({"damaged"}, kinds(log=log + [(3, 150, (0, 3, 50))])),  # never sent
    ]
    for i, (want, got) in enumerate(expected):
        if want != got:
            sys.exit(f"self-test {i}: reported {got or 'nothing'}, planted {want or 'nothing'}")
    value = value_of((1, 2, 3), 5000)
    spoilt = value[:2500] + bytes([value[2500] ^ 1]) + value[2501:]
    if record_of(value) != (1, 2, 3) or record_of(spoilt) is not None or record_of(b"") is not None:
        sys.exit("self-test: values")


class Broker:
    """The broker's process, started from a command template."""

    def __init__(self, template, data, port, log):
        self.template, self.data, self.port, self.log = template, data, port, log
        self.process = None

    def start(self, cores):
        command = self.template.format(data=self.data, port=self.port, cores=cores)
        self.log.write(f"--- {time.time():.3f} {command}\n".encode())
        self.log.flush()
        self.process = subprocess.Popen(shlex.split(command), stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def await_listening(self, limit_s=120):
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the broker ended by itself with {self.process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"the broker does not listen after {limit_s} s")

    def kill(self, sig=signal.SIGKILL):
        ended = self.process.poll()
        if ended is not None:
            raise RuntimeError(f"the broker had ended by itself with {ended}")
        self.process.send_signal(sig)
        self.process.wait(120)


class Producers:
    """Some producers, each on a thread, at a bounded rate so that the account of a long run fits into memory."""

    def __init__(self, count, partitions, config, rate, seed):
        self.partitions, self.config, self.rate = partitions, config, rate
        self.acked, self.sent, self.unknown = {}, collections.Counter(), collections.Counter()
        self.fatal, self.last_ack = [], time.monotonic()
        self.stop = threading.Event()
        self.failure = None
        self.threads = [threading.Thread(target=self._run, args=(p, random.Random(seed * 1000 + p))) for p in range(count)]

    def _open(self, number, fatal):
        from confluent_kafka import Producer

        codec = ["none", "lz4", "zstd", "gzip", "snappy"][number % 5]
        return Producer(
            self.config
            | {
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": 0,  # never give up: an outcome is unknown only when the producer must be replaced
                "compression.type": codec,
                "linger.ms": number % 3 * 5,
                "message.max.bytes": 1000000,
                "queue.buffering.max.messages": 5000,
                "client.id": f"kill9-{number}",
                "error_cb": lambda e: fatal.append(e.str()) if e.fatal() else None,
            }
        )

    def _delivered(self, record, error, message):
        if error is None:
            self.acked[record] = message.offset()
            self.last_ack = time.monotonic()
        else:
            self.unknown[str(error.name())] += 1

    def _run(self, number, chance):
        try:
            self._produce(number, chance)
        except Exception as e:  # reported by the main thread
            self.failure = e

    def _produce(self, number, chance):
        from confluent_kafka import KafkaException

        fatal = []
        producer, due = self._open(number, fatal), time.monotonic()
        while not self.stop.is_set():
            partition = chance.randrange(self.partitions)
            record = (number, partition, self.sent[number, partition])
            size = chance.choice([0, 10, 100, 100, 1000, 1000, 10000] + ([400000] if chance.random() < 0.005 else []))
            try:
                producer.produce(
                    TOPIC,
                    value_of(record, size),
                    partition=partition,
                    on_delivery=lambda e, m, record=record: self._delivered(record, e, m),
                )
                self.sent[number, partition] += 1
                producer.poll(0)
            except BufferError:
                producer.poll(0.05)
            except KafkaException:
                if not fatal:
                    raise
            if fatal:
                # such a producer is of no more use; what it had not delivered has an unknown outcome
                self.fatal.append(f"producer {number}: {fatal[0]}")
                producer.purge()
                producer.flush(5)
                fatal = []
                producer = self._open(number, fatal)
            due = max(due + 1 / self.rate, time.monotonic() - 0.2)
            time.sleep(max(0.0, due - time.monotonic()))
        left = producer.flush(120)
        if left:
            self.unknown["not answered in 120 s after the last restart"] += left


class Reader:
    """Reads all partitions from the start; `until` bounds a final reading, without it the reading is live."""

    def __init__(self, config, partitions):
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        self.consumer = Consumer(
            config
            | {
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",  # a log that lost its end must not be read again from the start in silence
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
                "check.crcs": True,
            }
        )
        self.consumer.assign([TopicPartition(TOPIC, p, OFFSET_BEGINNING) for p in range(partitions)])

    def poll(self):
        """(kind, partition, offset, record): kind is 'record', 'end', 'error' or None."""
        from confluent_kafka import KafkaError

        m = self.consumer.poll(0.1)
        if m is None:
            return None, None, None, None
        if m.error() is None:
            return "record", m.partition(), m.offset(), record_of(m.value())
        if m.error().code() == KafkaError._PARTITION_EOF:
            return "end", m.partition(), m.offset(), None
        if m.error().code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._BAD_MSG):
            return "error", m.partition(), m.offset(), str(m.error())
        return None, None, None, None


def follow(reader, stop, shown, errors):
    """A consumer that lives through the kills: what it was shown must still be there at the end."""
    while not stop.is_set():
        kind, partition, offset, record = reader.poll()
        if kind == "record":
            shown[partition, offset] = record
        elif kind == "error":
            errors.append(record)
    reader.consumer.close()


def read_all(config, partitions, ends):
    """Everything up to the ends that the broker reports."""
    reader, log, left = Reader(config, partitions), [], {p for p, e in ends.items() if e > 0}
    progress = time.monotonic()
    while left:
        kind, partition, offset, record = reader.poll()
        if kind == "record":
            log.append((partition, offset, record))
            progress = time.monotonic()
            if offset + 1 >= ends[partition]:
                left.discard(partition)
        elif kind == "error":
            raise RuntimeError(f"reading back: {record}")
        elif time.monotonic() - progress > 120:
            raise RuntimeError(f"reading back stands still; partitions {sorted(left)} have not ended")
    reader.consumer.close()
    return log


def create_topic(config, partitions, topic_config):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient(config)
    admin.create_topics([NewTopic(TOPIC, partitions, 1, config=topic_config)])[TOPIC].result(60)


def run(options):
    chance = random.Random(options.seed)
    os.makedirs(options.work, exist_ok=True)
    data = os.path.join(options.work, "data")
    config = {
        "bootstrap.servers": f"127.0.0.1:{options.port}",
        "reconnect.backoff.ms": 10,
        "reconnect.backoff.max.ms": 200,
        "retry.backoff.ms": 20,
        "log_level": 0,
    }
    broker = Broker(options.broker, data, options.port, open(os.path.join(options.work, "broker.log"), "ab"))
    all_cores, cores = options.cores.split(";"), options.cores.split(";")[0]
    shown, errors, stop = {}, [], threading.Event()
    producers = Producers(options.producers, options.partitions, config, options.rate, options.seed)
    try:
        broker.start(cores)
        broker.await_listening()
        create_topic(config, options.partitions, {"segment.bytes": "4194304"})
        follower = threading.Thread(target=follow, args=(Reader(config, options.partitions), stop, shown, errors))
        for thread in [*producers.threads, follower]:
            thread.daemon = True
            thread.start()
        kills = early = 0
        while kills < options.cycles:
            # one in ten is killed while it starts; else it must acknowledge something first
            if chance.random() < 0.1 and kills > 0:
                time.sleep(chance.uniform(0, 0.3))
                early += 1
            else:
                broker.await_listening()
                since = time.monotonic()
                while producers.last_ack < since:
                    if producers.failure:
                        raise producers.failure
                    if time.monotonic() - since > 120:
                        raise RuntimeError("nothing was acknowledged in 120 s since the broker listens")
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, options.up_s))
            broker.kill(signal.SIGTERM if options.graceful else signal.SIGKILL)
            kills += 1
            if chance.random() < 0.5:
                cores = chance.choice(all_cores)
            broker.start(cores)
            if kills % 10 == 0:
                print(f"{kills} kills, {len(producers.acked)} acknowledged, {len(shown)} shown", flush=True)
        broker.await_listening()
        producers.stop.set()
        for thread in producers.threads:
            thread.join()
        stop.set()
        follower.join()
        if producers.failure:
            raise producers.failure
        log = read_all(config, options.partitions, log_ends(config, options.partitions))
    finally:
        producers.stop.set()
        stop.set()
        if broker.process and broker.process.poll() is None:
            broker.process.kill()
            broker.process.wait()
    found = judge(producers.acked, producers.sent, shown, log)
    found["lost"] += [f"live consumer: {e}" for e in errors]
    found["fatal"] = producers.fatal
    unknown = sum(producers.sent.values()) - len(producers.acked)
    print(
        f"{kills} kills ({early} while starting), {sum(producers.sent.values())} sent, {len(producers.acked)} acknowledged, "
        f"{unknown} unknown {dict(producers.unknown) or ''}, {len(log)} read, {len(shown)} shown live, "
        f"{len(producers.fatal)} producers replaced"
    )
    return report(found, producers, shown, log, options.work)


def log_ends(config, partitions):
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(config | {"group.id": "unused"})
    ends = {p: consumer.get_watermark_offsets(TopicPartition(TOPIC, p), timeout=60)[1] for p in range(partitions)}
    consumer.close()
    return ends


def report(found, producers, shown, log, work):
    for kind, cases in found.items():
        for case in cases[:20]:
            print(f"{kind}: {case}")
    if any(found.values()):
        with open(os.path.join(work, "account.json"), "w") as f:
            acked = [[*r, o] for r, o in producers.acked.items()]
            json.dump({"acked": acked, "shown": [[*k, v] for k, v in shown.items()], "log": log}, f)
        print(f"the account and the broker's data are in {work}")
    extra = [f"{len(found[k])} {k}" for k in ("misplaced", "damaged", "fatal") if found[k]]
    print(", ".join(extra + [f"{len(found[k])} {k}" for k in ("lost", "duplicated", "reordered")]))
    return not any(found.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", help="command with {data}, {port} and {cores}")
    parser.add_argument("--cores", default="0", help="lists of cores to choose from, parted by ';'")
    parser.add_argument("--cycles", type=int, default=100, help="how many kills")
    parser.add_argument("--port", type=int, default=19999)
    parser.add_argument("--producers", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--rate", type=float, default=400, help="records a second and producer")
    parser.add_argument("--up-s", type=float, default=1.0, help="longest time between the first acknowledgement and the kill")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--work", default=None)
    parser.add_argument("--graceful", action="store_true", help="SIGTERM instead of SIGKILL")
    parser.add_argument("--self-test", action="store_true", help="only check that the checker can fail")
    options = parser.parse_args()
    self_test()
    if options.self_test:
        return print("self-test passed")
    options.work = options.work or tempfile.mkdtemp(prefix="kill9-")
    print(f"seed {options.seed}, work {options.work}", flush=True)
    try:
        ok = run(options)
    except RuntimeError as e:
        sys.exit(f"the run could not be judged: {e}; see {options.work}/broker.log")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
