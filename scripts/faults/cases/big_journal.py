"""A journal much larger than --memory is full: what do starts after a kill -9 take, and an idle broker afterwards?"""

import os
import time

from wire import batch, record

MEGABYTES = 2600


def big_journal(c):
    broker = c.start(memory=256, journal=3072, wait=60, timed=False)
    client = c.client(broker)
    client.create("t", 8)
    data = batch([record(os.urandom(500_000))])
    for number in range(MEGABYTES):
        client.produce("t", [(number % 8, data), ((number + 1) % 8, data)])
    for when in ("after the load", "at once"):
        broker.kill()
        broker = c.again(broker)
        c.note(f"peak {broker.watermark():.0f} MiB after a start {when}")
    time.sleep(10)
    c.note(f"RSS {broker.memory():.0f} MiB 10 s later")
    high = sum(part["HighWatermark"] for part in c.client(broker).fetch("t", [(p, 0) for p in range(8)]))
    c.check("nothing acknowledged is lost", high == 2 * MEGABYTES, otherwise=f"{high} of {2 * MEGABYTES} batches there")


VARIANTS = {"": big_journal}
