"""Clients announce large requests and send them slowly: does anybody else wait?

many   140 of 2 MiB at 25 kB/s each, then small requests of others
large  8 of 100 MB at 64 kB/s each, then requests of 3 MB of others as well
"""

import os
import struct
import threading
import time

from others import TOPIC
from wire import NONE, batch, record

LARGE_PATIENCE = 5


def begin(c, broker, uploads, size, rate):
    """So many uploads of `size` bytes at `rate` bytes a second each."""
    slow = [c.client(broker) for _ in range(uploads)]
    for client in slow:
        client.socket.sendall(struct.pack(">i", size) + client.frame("Produce", 7, b"")[4:])

    def trickle():
        while True:
            time.sleep(1)
            for client in slow:
                try:
                    client.socket.sendall(bytes(rate))
                except OSError:
                    pass

    threading.Thread(target=trickle, daemon=True).start()
    time.sleep(1)


def many(c):
    broker = c.start(memory=1024, journal=None)
    with c.others(broker) as others:
        begin(c, broker, 140, 2 << 20, 25_000)
        took = [first_produce(c.client(broker, timeout=5), partition) for partition in range(4)]
        c.check(
            "a new connection does not wait over 1 s",
            max(took) <= 1,
            f"a new connection at worst {max(took) * 1e3:.0f} ms",
            timing=True,
        )
        time.sleep(10)
        others.judge()


def large(c):
    broker = c.start(memory=1024, journal=None)
    c.client(broker).create("t", 8, {"max.message.bytes": "10000000"})
    with c.others(broker) as others:
        begin(c, broker, 8, 100_000_000, 64_000)
        data = batch([record(os.urandom(3_000_000))])
        took, codes = [], set()
        # Connections are dealt out to cores in turn.
        for partition in range(4):
            client = c.client(broker, timeout=2 * LARGE_PATIENCE)
            began = time.monotonic()
            try:
                codes |= set(client.produce("t", [(partition, data)]))
            except TimeoutError:
                codes.add("no answer")
            took.append(time.monotonic() - began)
        c.check(
            f"requests of 3 MB are taken within {LARGE_PATIENCE} s",
            max(took) <= LARGE_PATIENCE and codes == {NONE},
            f"3 MB at worst {max(took):.1f} s, codes {codes}",
            timing=True,
        )
        others.judge()


def first_produce(client, partition):
    """How long a new connection waits for its first answer, in seconds; if none comes, how long it waited."""
    began = time.monotonic()
    try:
        client.produce(TOPIC, [(partition, batch([record(b"x")]))])
    except TimeoutError:
        pass
    return time.monotonic() - began


VARIANTS = {"many": many, "large": large}
