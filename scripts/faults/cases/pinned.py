"""Stalled consumers of a trickle beside hot partitions: their small answers share buffers with the hot ones' data."""

import os
import time

from wire import FETCH, batch, fetch, record

CONSUMERS = 24


def pinned(c):
    broker = c.start(journal=128)
    client = c.client(broker)
    client.create("t", 8)
    hot, small = batch([record(os.urandom(250_000))]), batch([record(b"x" * 50)])
    offset = 0
    with c.others(broker) as others:
        for _ in range(CONSUMERS):
            began = offset
            for _ in range(30):
                client.produce("t", [(p, hot) for p in range(1, 8)] + [(0, small)])
                offset += 1
            stalled = c.client(broker, receive_buffer=4096)
            for _ in range(3):
                stalled.send(*FETCH, fetch("t", [(1, max(0, offset - 20))], wait_ms=100, partition_max_bytes=8 << 20))
            stalled.send(*FETCH, fetch("t", [(0, began)], wait_ms=100))
        others.judge()
    c.note(f"RSS {broker.memory():.0f} MiB beside {CONSUMERS} stalled consumers")
    for stalled in c.clients[1:]:
        stalled.close()
    time.sleep(2)
    c.note(f"{broker.memory():.0f} MiB when they are gone")


VARIANTS = {"": pinned}
