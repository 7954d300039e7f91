"""3 000 partitions with a record each: memory, idle cost, what others wait, and starts. With LONG=1 10 000."""

import os
import time

from case import LONG
from wire import NONE, batch, record

TOPICS, EACH = 10 if LONG else 3, 1000


def many_partitions(c):
    broker = c.start(memory=1024, journal=256)
    client = c.client(broker, timeout=120)
    client.create("probe", 2)
    began = time.monotonic()
    for number in range(TOPICS):
        client.create(f"big-{number}", EACH)
    c.note(f"{TOPICS * EACH} partitions made in {time.monotonic() - began:.1f} s, RSS {broker.memory():.0f} MiB")
    cpu = broker.cpu()
    time.sleep(5)
    idle = 100 * (broker.cpu() - cpu) / 5
    c.check("an idle broker costs 2 % of a core at most", idle <= 2, f"idle {idle:.1f} % CPU")
    with c.others(broker, topics=True) as others:
        time.sleep(3)
        small = batch([record(os.urandom(1000))])
        codes = set()
        for number in range(TOPICS):
            for first in range(0, EACH, 500):
                codes |= set(client.produce(f"big-{number}", [(p, small) for p in range(first, first + 500)]))
        c.check("all records are taken", codes == {NONE}, otherwise=f"codes {codes}")
        # A checkpoint comes first: what a start does without one is the matter of first_checkpoint.
        time.sleep(3)
        large = batch([record(os.urandom(900_000))])
        for number in range(500):
            client.produce("probe", [(number % 2, large)])
            # A writer at full speed would fill the journal before thousands of segments are flushed, and all wait for that.
            time.sleep(0.02)
        time.sleep(3)
        others.judge()
    c.note(f"RSS {broker.memory():.0f} MiB, {broker.descriptors()} descriptors")
    broker.kill()
    broker = c.again(broker)
    status = broker.stop()
    c.check("a clean stop", status == 0, otherwise=f"status {status}")
    c.again(broker)


VARIANTS = {"": many_partitions}
