"""60 clients open a fetch session of 100 000 partitions that do not exist, and go."""

import struct
import time

from wire import text

PARTITIONS, CLIENTS = 100_000, 60


def sessions(c):
    broker = c.start()
    c.client(broker).create("t", 4)
    body = struct.pack(">iiiibiii", -1, 0, 0, 1 << 20, 0, 0, 0, 1) + text("zz") + struct.pack(">i", PARTITIONS)
    body += b"".join(struct.pack(">iqqi", partition, 0, -1, 1 << 20) for partition in range(PARTITIONS)) + struct.pack(
        ">i", 0
    )
    with c.others(broker) as others:
        codes = set()
        for _ in range(CLIENTS):
            client = c.client(broker)
            client.send("Fetch", 7, body)
            # After the correlation id and the throttle time.
            codes.add(struct.unpack(">h", client.receive()[8:10])[0])
            client.close()
        c.note(f"{CLIENTS} requests of {len(body) / 1e6:.1f} MB, codes {codes}")
        others.judge()
    time.sleep(3)
    c.note(f"RSS {broker.memory():.0f} MiB")


VARIANTS = {"": sessions}
