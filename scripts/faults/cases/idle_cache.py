"""A burst larger than --memory, kill -9, and a start of which nobody wants anything: what stays in memory?

Its cache is half of --memory. Eviction must not wait for somebody to write.
"""

import os
import time

from wire import batch, record


def idle_cache(c):
    broker = c.start(memory=512, journal=3072, wait=60, timed=False)
    client = c.client(broker)
    client.create("t", 8)
    data = batch([record(os.urandom(900_000))])
    for number in range(1500):
        client.produce("t", [(number % 8, data)])
    c.note(f"RSS {broker.memory():.0f} MiB after 1.3 GB")
    broker.kill()
    broker = c.again(broker)
    c.note(f"{broker.memory():.0f} MiB after the start")
    time.sleep(12)
    c.check(
        "an idle broker keeps no more than its cache",
        broker.memory() <= 0.6 * 512 + 32,
        f"{broker.memory():.0f} MiB 12 s later",
    )


VARIANTS = {"": idle_cache}
