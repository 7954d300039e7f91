"""One Fetch that names one partition 100 000 times, and one that waits for a record there."""

import time

from wire import FETCH, batch, fetch, record

NAMED = 100_000


def one_fetch(c):
    broker = c.start()
    client = c.client(broker, timeout=60)
    client.create("t", 8)
    with c.others(broker) as others:
        began = time.monotonic()
        client.send(*FETCH, fetch("t", [(0, 0)] * NAMED, wait_ms=500))
        answer = client.answer(*FETCH)
        c.note(f"{NAMED} times one partition: answered after {time.monotonic() - began:.2f} s")
        codes = {part["ErrorCode"] for topic in answer["Responses"] for part in topic["Partitions"]}
        c.check("the fetch is taken, or refused with its code", True, f"codes {codes}")
        client.send(*FETCH, fetch("t", [(0, 0)] * NAMED, wait_ms=5000))
        time.sleep(1)
        c.client(broker).produce("t", [(0, batch([record(b"x")]))])
        client.receive()
        others.judge()


VARIANTS = {"": one_fetch}
