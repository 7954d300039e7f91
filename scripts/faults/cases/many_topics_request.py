"""CreateTopics of 100 000 names, validate only: do others get topics and producer ids?"""

import struct
import time

from wire import text

NAMES = 100_000


def many_topics(c):
    broker = c.start()
    client = c.client(broker, timeout=120)
    one = struct.pack(">ihii", 1, 1, 0, 0)
    body = (
        struct.pack(">i", NAMES)
        + b"".join(text("n%08d" % n) + one for n in range(NAMES))
        + struct.pack(">ib", 30000, 1)
    )
    with c.others(broker, topics=True) as others:
        began = time.monotonic()
        codes = {topic["ErrorCode"] for topic in client.ask("CreateTopics", 2, body)["Topics"]}
        c.note(
            f"{NAMES} names in {len(body) / 1e6:.1f} MB: answered after {time.monotonic() - began:.2f} s, codes {codes}"
        )
        others.judge()


VARIANTS = {"": many_topics}
