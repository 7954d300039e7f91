"""1024 descriptors, 8 busy partitions: a client takes all descriptors that are left, then 8 more partitions are written."""

import os
import time

from wire import NONE, batch, record
from few_fds import LIMIT, idle, no_broken_disk


def flood(c):
    broker = c.start(memory=512, descriptors=LIMIT)
    client = c.client(broker, timeout=15)
    client.create("t", 16)
    data = batch([record(os.urandom(900_000))])
    for number in range(200):
        client.produce("t", [(number % 8, data)])
    with c.others(broker) as others:
        clients = idle(broker, 1200)
        time.sleep(1)
        c.note(f"{len(clients)} idle connections")
        codes, until = [], time.monotonic() + 10
        while time.monotonic() < until and len(codes) < 600:
            codes += client.produce("t", [(len(codes) % 16, data)])
        refused = sum(code != NONE for code in codes)
        c.check("each produce is taken, or refused with its code", True, f"{len(codes)} produced, {refused} refused")
        c.check(
            "the busy partitions go on", any(code == NONE for code in codes[-16:]), otherwise=f"codes {codes[-16:]}"
        )
        others.judge()
    no_broken_disk(c, broker)
    broker.kill()
    c.again(broker)
    for one in clients:
        one.close()
    time.sleep(3)


VARIANTS = {"": flood}
