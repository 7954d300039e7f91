"""A topic of 2 000 partitions with files is deleted: what waits meanwhile?"""

import os
import time

from wire import NONE, batch, record

PARTITIONS = 2000


def delete_topic(c):
    broker = c.start(memory=512)
    client = c.client(broker, timeout=120)
    client.create("big", PARTITIONS)
    client.create("t", 8)
    data, large = batch([record(os.urandom(20_000))]), batch([record(os.urandom(900_000))])
    for first in range(0, PARTITIONS, 50):
        client.produce("big", [(p, data) for p in range(first, first + 50)])
    for number in range(60):
        client.produce("t", [(number % 8, large)])
    time.sleep(3)
    c.note(f"{folders(broker)} of {PARTITIONS} partitions have files")
    with c.others(broker, topics=True) as others:
        began = time.monotonic()
        code = client.delete("big")
        c.check("the deletion is taken", code == NONE, f"deleted with {code} after {time.monotonic() - began:.2f} s")
        others.judge()
        until = time.monotonic() + 60
        while folders(broker) and time.monotonic() < until:
            time.sleep(0.1)
        c.check("their files go", not folders(broker), f"files gone after {time.monotonic() - began:.1f} s")
        others.judge()


def folders(broker):
    return sum(name.startswith("big-") for name in os.listdir(broker.data))


VARIANTS = {"": delete_topic}
