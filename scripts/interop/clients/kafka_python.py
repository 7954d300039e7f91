"""Classic groups and transactions through kafka-python, a client written in Python alone."""

import sys
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError
from kafka.structs import OffsetAndMetadata

import checks
from checks import fails, holds, is_shared_out, same, until

BOOTSTRAP, RUN = sys.argv[1:]
admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)


def create(name, partitions):
    topic = f"{name}-kp-{RUN}"
    admin.create_topics([NewTopic(topic, partitions, 1)])
    asked = [TopicPartition(topic, p) for p in range(partitions)]
    reader = consumer(None)

    def leaders():
        try:
            return len(reader.end_offsets(asked)) == partitions
        except KafkaError:
            return False

    until("there are leaders", leaders, lambda: time.sleep(0.05))
    reader.close()
    return topic


def consumer(group, **settings):
    settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "heartbeat_interval_ms": 200} | settings
    return KafkaConsumer(bootstrap_servers=BOOTSTRAP, group_id=group, **settings)


def produce(topic, partitions, numbers):
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all")
    send(producer, topic, partitions, numbers)
    producer.close()


def send(producer, topic, partitions, numbers):
    sent = [producer.send(topic, str(n).encode(), partition=n % partitions) for n in numbers]
    producer.flush()
    for future in sent:
        future.get(checks.PATIENCE_S)


class Member:
    def __init__(self, group, topic):
        self.read = []
        self.consumer = consumer(group)
        self.consumer.subscribe([topic])

    def owned(self):
        return [partition.partition for partition in self.consumer.assignment()]

    def poll(self):
        for records in self.consumer.poll(100).values():
            self.read += [int(record.value) for record in records]


def group():
    topic, name = create("group", 4), f"kp-{RUN}"
    produce(topic, 4, range(400))
    one = Member(name, topic)
    until("the first reads all", lambda: len(one.read) >= 400, one.poll)
    one.consumer.commit()
    same("committed", committed(name, topic, 4), [100] * 4)
    one.consumer.close()
    produce(topic, 4, range(400, 440))
    two = Member(name, topic)
    until("the rest is read", lambda: len(two.read) >= 40, two.poll)
    same("only the rest", sorted(two.read), list(range(400, 440)))
    holds("it has all of them", is_shared_out(4, [two.owned()]))
    two.consumer.commit()
    listed = [listing for listing in admin.list_groups() if name in str(listing)]
    same("listed", len(listed), 1)
    two.consumer.close()


def committed(group, topic, partitions):
    asked = consumer(group)
    offsets = [asked.committed(TopicPartition(topic, p)) for p in range(partitions)]
    asked.close()
    return offsets


def transactional(name):
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, transactional_id=f"{name}-kp-{RUN}")
    producer.init_transactions()
    return producer


def read_all(topic, partition, isolation):
    """What the partition holds up to its end for that isolation."""
    reader = consumer(None, isolation_level=isolation)
    asked = TopicPartition(topic, partition)
    reader.assign([asked])
    end = reader.end_offsets([asked])[asked]
    read = []

    def step():
        for records in reader.poll(100).values():
            read.extend(int(record.value) for record in records)

    until("the end", lambda: reader.position(asked) >= end, step)
    reader.close()
    return read


def commit_and_abort():
    topic, producer = create("txn", 2), transactional("txn")
    for i in range(6):
        producer.begin_transaction()
        send(producer, topic, 2, range(100 * i, 100 * i + 100))
        producer.abort_transaction() if i % 2 else producer.commit_transaction()
    producer.close()
    wanted = [n for i in (0, 2, 4) for n in range(100 * i, 100 * i + 100)]
    for partition in range(2):
        committed = read_all(topic, partition, "read_committed")
        same("committed, in order", committed, [n for n in wanted if n % 2 == partition])
        same("all", len(read_all(topic, partition, "read_uncommitted")), 300)


def fencing():
    topic, first = create("fence", 1), transactional("fence")
    first.begin_transaction()
    send(first, topic, 1, range(10))
    second = transactional("fence")
    fails("the first is fenced", first.commit_transaction, ProducerFencedError, InvalidProducerEpochError)
    second.begin_transaction()
    send(second, topic, 1, range(10, 20))
    second.commit_transaction()
    same("only the second's", read_all(topic, 0, "read_committed"), list(range(10, 20)))


def offsets_in_transaction():
    source, sink, name = create("from", 1), create("to", 1), f"eos-kp-{RUN}"
    produce(source, 1, range(30))
    member, producer = Member(name, source), transactional("eos")
    until("the input", lambda: len(member.read) >= 30, member.poll)

    def copy(numbers):
        producer.begin_transaction()
        send(producer, sink, 1, numbers)
        offset = OffsetAndMetadata(numbers.stop, "", -1)
        producer.send_offsets_to_transaction({TopicPartition(source, 0): offset}, member.consumer.group_metadata())

    copy(range(10))
    producer.abort_transaction()
    same("aborted", committed(name, source, 1), [None])
    copy(range(10))
    producer.commit_transaction()
    same("committed", committed(name, source, 1), [10])
    same("output", read_all(sink, 0, "read_committed"), list(range(10)))


checks.run(
    "kafka-python",
    [
        ("group classic: taken, resumed", group),
        ("transactions: commit, abort, read_committed", commit_and_abort),
        ("transactions: a fenced producer leaves nothing", fencing),
        ("transactions: offsets with the records", offsets_in_transaction),
    ],
)
