"""1024 file descriptors, soft and hard, as in an ordinary shell: a lack of them is no broken disk.

partitions   700 partitions get data, more files than descriptors
sentence     idle connections take all that are left: that is said, but not all the time
connections  the same, then 700 partitions want their files
soft         a soft limit of 256 below the hard one: it is raised, and nothing is refused
both         2 000 partitions with data, and 2 000 connections; kill -9, and a start under the same limit serves them
"""

import collections
import os
import re
import time

from wire import NONE, PRODUCE, Client, batch, produce, record

# Soft and hard.
LIMIT = (1024, 1024)
SENTENCE = re.compile(r"descriptor|open files|nofile|connections", re.I)


def fill(c, client, partitions, rounds):
    """Rounds of 20 kB to each partition; how much was taken by partition. Every request has its answer."""
    data = batch([record(os.urandom(20_000))])
    taken, refused, answered = collections.Counter(), collections.Counter(), True
    try:
        for _ in range(rounds):
            for first in range(0, partitions, 50):
                parts = range(first, min(partitions, first + 50))
                for partition, code in zip(parts, client.produce("t", [(p, data) for p in parts])):
                    (refused if code else taken)[code or partition] += 1
    except (OSError, EOFError) as error:
        answered = f"{type(error).__name__} {error}"
    c.check("each produce is taken, or refused with its code", answered is True, otherwise=answered)
    c.note(f"{sum(taken.values())} batches taken" + (f", refused {dict(refused)}" if refused else ""))
    return taken


def holds(c, broker, partitions, taken):
    """After a kill -9 and a start under the same limit everything taken is served, and records are taken."""
    client = c.client(broker)
    missing = unread = 0
    for first in range(0, partitions, 50):
        parts = range(first, min(partitions, first + 50))
        for part in client.fetch("t", [(p, 0) for p in parts], max_bytes=100 << 20, partition_max_bytes=30_000):
            missing += part["HighWatermark"] < taken[part["PartitionIndex"]]
            unread += part["ErrorCode"] != NONE or (taken[part["PartitionIndex"]] > 0 and not part["Records"])
    c.check(
        "a start serves all that was acknowledged",
        not missing and not unread,
        otherwise=f"{missing} partitions short, {unread} unread",
    )
    fill(c, client, partitions, 1)
    time.sleep(3)
    c.check("the broker is alive 3 s later", not broker.ended())


def no_broken_disk(c, broker):
    c.check("no sentence blames the disk", "disk has failed" not in broker.said())


def partitions(c):
    broker = c.start(memory=512, descriptors=LIMIT)
    client = c.client(broker, timeout=20)
    client.create("t", 700)
    taken = fill(c, client, 700, 15)
    time.sleep(2)
    no_broken_disk(c, broker)
    broker.kill()
    holds(c, c.again(broker), 700, taken)


def soft(c):
    broker = c.start(memory=512, descriptors=(256, 4096))
    client = c.client(broker, timeout=20)
    client.create("t", 700)
    taken = fill(c, client, 700, 8)
    c.check("all is taken", sum(taken.values()) == 8 * 700, otherwise=f"{sum(taken.values())} of {8 * 700}")
    no_broken_disk(c, broker)
    broker.kill()
    holds(c, c.again(broker), 700, taken)


def idle(broker, count):
    """Connections that say nothing, as many as are let in."""
    clients = []
    while len(clients) < count:
        try:
            clients.append(Client(broker.port, timeout=5))
        except OSError:
            break
    return clients


def sentence(c):
    broker = c.start(memory=512, descriptors=LIMIT)
    before = len(broker.said())
    flood = idle(broker, 1500)
    time.sleep(5)
    lines = [line for line in broker.said()[before:].splitlines() if SENTENCE.search(line)]
    c.check(
        "a lack of descriptors is said once a minute",
        1 <= len(lines) <= 2,
        f"{len(lines)} lines in some 10 s",
        otherwise=broker.last_words(),
    )
    c.note(f"{len(flood)} idle connections")


def connections(c):
    broker = c.start(memory=512, descriptors=LIMIT)
    client = c.client(broker, timeout=20)
    client.create("t", 700)
    with c.others(broker) as others:
        flood = idle(broker, 1500)
        c.note(f"{len(flood)} idle connections")
        taken = fill(c, client, 700, 10)
        others.judge()
    no_broken_disk(c, broker)
    for one in flood:
        one.close()
    began = time.monotonic()
    c.client(broker, timeout=10).produce("t", [(0, batch([record(b"x")]))])
    c.check("with descriptors again, a new connection is served", True, f"after {time.monotonic() - began:.2f} s")
    broker.kill()
    holds(c, c.again(broker), 700, taken)


def both(c):
    broker = c.start(memory=512, descriptors=LIMIT)
    first = c.client(broker, timeout=20)
    first.create("t", 2000)
    taken = fill(c, first, 2000, 3)
    before = len(broker.said())
    clients = idle(broker, 2000)
    small = batch([record(b"x" * 100)])
    sent = []
    for number, client in enumerate(clients):
        try:
            client.send(*PRODUCE, produce("t", [(number, small)]))
            client.socket.settimeout(0.02)
            sent.append(client)
        except OSError:
            pass
    time.sleep(3)
    served = 0
    for number, client in enumerate(sent):
        try:
            code = client.answer(*PRODUCE)["Responses"][0]["PartitionResponses"][0]["ErrorCode"]
            served += 1
            taken[number] += code == NONE
        except (OSError, EOFError):
            pass
    c.note(f"{served} of 2000 connections served")
    c.check(
        "who is not served is refused with a sentence",
        served == 2000 or SENTENCE.search(broker.said()[before:]),
        otherwise=broker.last_words(),
    )
    no_broken_disk(c, broker)
    broker.kill()
    for client in clients:
        client.close()
    holds(c, c.again(broker), 2000, taken)


VARIANTS = {"partitions": partitions, "sentence": sentence, "soft": soft, "connections": connections, "both": both}
