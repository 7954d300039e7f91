"""Groups of both protocols and transactions through librdkafka (confluent-kafka)."""

import sys
import time

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

import checks
from checks import fails, holds, is_shared_out, same, until

BOOTSTRAP, RUN = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})


def create(name, partitions):
    topic = f"{name}-rdkafka-{RUN}"
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result()
    # a broker may answer a little earlier than it leads
    until("there are leaders", lambda: leaders(topic, partitions), lambda: time.sleep(0.05))
    return topic


def leaders(topic, partitions):
    asked = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(partitions)}
    return all(answer.exception(checks.PATIENCE_S) is None for answer in admin.list_offsets(asked).values())


def produce(topic, partitions, numbers, **settings):
    producer = Producer({"bootstrap.servers": BOOTSTRAP, **settings})
    send(producer, topic, partitions, numbers)
    same("unsent", producer.flush(checks.PATIENCE_S), 0)


def send(producer, topic, partitions, numbers):
    for n in numbers:
        producer.produce(topic, str(n).encode(), partition=n % partitions)


def consumer(group, protocol="classic", **settings):
    """With "." in the names of settings as "_"."""
    config = {
        "bootstrap.servers": BOOTSTRAP,
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "group.protocol": protocol,
    }
    if protocol == "classic":
        config |= {"partition.assignment.strategy": "cooperative-sticky", "heartbeat.interval.ms": 200}
    return Consumer(config | {name.replace("_", "."): value for name, value in settings.items()})


class Member:
    def __init__(self, group, protocol, topic):
        self.read = []
        self.consumer = consumer(group, protocol)
        self.consumer.subscribe([topic], on_revoke=self.revoked)

    def revoked(self, consumer, partitions):
        self.commit()

    def commit(self):
        try:
            self.consumer.commit(asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._NO_OFFSET:
                raise

    def owned(self):
        return [partition.partition for partition in self.consumer.assignment()]

    def poll(self):
        for message in self.consumer.consume(100, 0.1):
            holds(str(message.error()), not message.error())
            self.read.append(int(message.value()))


def group(protocol):
    topic, name = create(f"group-{protocol}", 6), f"rdkafka-{protocol}-{RUN}"
    produce(topic, 6, range(600))
    members = [Member(name, protocol, topic) for _ in range(3)]
    read = []

    def poll():
        for member in members:
            member.poll()

    def shared_out():
        return is_shared_out(6, [member.owned() for member in members])

    until("three share six partitions", shared_out, poll)
    left = members.pop()
    left.commit()
    left.consumer.close()
    read += left.read
    until("two take over", shared_out, poll)
    produce(topic, 6, range(600, 1200))
    until("all is read", lambda: len(read) + sum(len(member.read) for member in members) >= 1200, poll)
    for member in members:
        read += member.read
        member.commit()
    same("each record once", sorted(read), list(range(1200)))
    described = admin.describe_consumer_groups([name])[name].result()
    same("members", len(described.members), 2)
    same("state", described.state.name, "STABLE")
    for member in members:
        member.consumer.close()
    same("committed", committed(name, topic, 6), [200] * 6)
    produce(topic, 6, range(1200, 1260))
    members = [Member(name, protocol, topic)]
    until("the rest is read", lambda: len(members[0].read) >= 60, poll)
    same("only the rest", sorted(members[0].read), list(range(1200, 1260)))
    members[0].consumer.close()
    admin.delete_consumer_groups([name])[name].result()


def committed(group, topic, partitions):
    asked = consumer(group)
    offsets = asked.committed([TopicPartition(topic, p) for p in range(partitions)], checks.PATIENCE_S)
    asked.close()
    return [offset.offset for offset in offsets]


def transactional(name):
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": f"{name}-rdkafka-{RUN}"})
    producer.init_transactions(checks.PATIENCE_S)
    return producer


def read_all(topic, partition, isolation):
    """What the partition holds up to its end for that isolation."""
    reader = consumer("none", isolation_level=isolation, enable_partition_eof=True)
    reader.assign([TopicPartition(topic, partition, 0)])
    read, ended = [], []

    def step():
        message = reader.poll(1)
        if message is None:
            return
        if message.error():
            same("error", message.error().code(), KafkaError._PARTITION_EOF)
            ended.append(True)
        else:
            read.append(int(message.value()))

    until("the end", lambda: ended, step)
    reader.close()
    return read


def commit_and_abort():
    topic, producer = create("txn", 2), transactional("txn")
    for i in range(6):
        producer.begin_transaction()
        send(producer, topic, 2, range(100 * i, 100 * i + 100))
        producer.flush()
        producer.abort_transaction() if i % 2 else producer.commit_transaction()
    wanted = [n for i in (0, 2, 4) for n in range(100 * i, 100 * i + 100)]
    for partition in range(2):
        committed = read_all(topic, partition, "read_committed")
        same("committed, in order", committed, [n for n in wanted if n % 2 == partition])
        same("all", len(read_all(topic, partition, "read_uncommitted")), 300)


def fencing():
    topic, first = create("fence", 1), transactional("fence")
    first.begin_transaction()
    send(first, topic, 1, range(10))
    first.flush()
    asked = {TopicPartition(topic, 0): OffsetSpec.latest()}
    stable = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED)
    same("last stable offset", list(stable.values())[0].result().offset, 0)
    second = transactional("fence")
    fails("the first is fenced", first.commit_transaction, KafkaException)
    second.begin_transaction()
    send(second, topic, 1, range(10, 20))
    second.commit_transaction()
    same("only the second's", read_all(topic, 0, "read_committed"), list(range(10, 20)))


def offsets_in_transaction(protocol):
    source, sink = create(f"from-{protocol}", 1), create(f"to-{protocol}", 1)
    name = f"eos-{protocol}-rdkafka-{RUN}"
    produce(source, 1, range(30))
    member, producer = Member(name, protocol, source), transactional(f"eos-{protocol}")
    until("the input", lambda: len(member.read) >= 30, member.poll)

    def copy(numbers):
        producer.begin_transaction()
        send(producer, sink, 1, numbers)
        offset = TopicPartition(source, 0, numbers.stop)
        producer.send_offsets_to_transaction([offset], member.consumer.consumer_group_metadata())

    copy(range(10))
    producer.abort_transaction()
    same("aborted", committed(name, source, 1), [-1001])
    copy(range(10))
    producer.commit_transaction()
    same("committed", committed(name, source, 1), [10])
    copy(range(10, 20))
    producer.commit_transaction()
    same("committed", committed(name, source, 1), [20])
    same("output", read_all(sink, 0, "read_committed"), list(range(20)))
    member.consumer.close()


checks.run(
    "librdkafka",
    [(f"group {p}: shared out, taken over, resumed", lambda p=p: group(p)) for p in ("classic", "consumer")]
    + [
        ("transactions: commit, abort, read_committed", commit_and_abort),
        ("transactions: a fenced producer leaves nothing", fencing),
    ]
    + [
        (f"transactions: offsets with the records, group {p}", lambda p=p: offsets_in_transaction(p))
        for p in ("classic", "consumer")
    ],
)
