"""60 starts, each cut off after 20 to 200 ms: do the journals grow, and does the next start take longer?"""

import os
import random

from case import size_mib
from wire import batch, record


def crash_loop(c):
    random.seed(1)
    broker = c.start(journal=256)
    client = c.client(broker)
    client.create("t", 8)
    data = batch([record(os.urandom(400_000))])
    for number in range(250):
        client.produce("t", [(number % 8, data)])
    broker.kill()
    before, sizes = size_mib(broker.data / "@journal"), []
    for _ in range(60):
        life = c.again(broker, timed=False, must=False, wait=random.choice((0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2)))
        if life.ended():
            c.check("a start that is cut off does not fail by itself", False, otherwise=life.last_words())
        life.kill()
        sizes.append(size_mib(broker.data / "@journal"))
    c.check(
        "journals do not grow", max(sizes) <= 1.25 * before, f"journals {before:.0f} MiB, then {max(sizes):.0f} at most"
    )
    broker = c.again(broker)
    high = sum(part["HighWatermark"] for part in c.client(broker).fetch("t", [(p, 0) for p in range(8)]))
    c.check("nothing acknowledged is lost", high == 250, otherwise=f"{high} of 250 batches there")


VARIANTS = {"": crash_loop}
