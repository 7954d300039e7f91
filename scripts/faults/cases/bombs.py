"""One request of 200 gzip batches, 58 kB each and 60 MB inside: does anybody else wait?"""

import gzip
import time

from wire import PRODUCE, batch, produce, record

BATCHES, INSIDE = 200, 60_000_000


def bombs(c):
    broker = c.start()
    client = c.client(broker, timeout=120)
    client.create("bomb", BATCHES)
    bomb = batch(gzip.compress(record(bytes(INSIDE)), 6), attributes=1, count=1)
    with c.others(broker) as others:
        began = time.monotonic()
        client.send(*PRODUCE, produce("bomb", [(partition, bomb) for partition in range(BATCHES)]))
        answer = client.answer(*PRODUCE)
        codes = {part["ErrorCode"] for part in answer["Responses"][0]["PartitionResponses"]}
        c.note(
            f"{BATCHES} batches of {len(bomb)} bytes: answered after {time.monotonic() - began:.1f} s, codes {codes}"
        )
        others.judge()


VARIANTS = {"": bombs}
