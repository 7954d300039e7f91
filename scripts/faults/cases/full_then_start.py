"""A clean stop, then something else fills the disk, then two starts."""

import os

from wire import batch, record


def full_then_start(c):
    disk = c.disk("512M")
    broker = c.start(data=disk / "data")
    client = c.client(broker)
    client.create("t", 4)
    data = batch([record(os.urandom(300_000))])
    for number in range(300):
        client.produce("t", [(number % 4, data)])
    status = broker.stop()
    c.check("a clean stop", status == 0, otherwise=f"status {status}")
    with open(disk / "other", "wb", buffering=0) as other:
        try:
            while True:
                other.write(bytes(1 << 20))
        except OSError:
            os.fsync(other)
    for _ in range(2):
        broker = c.again(broker, wait=15)
        high = sum(part["HighWatermark"] for part in c.client(broker).fetch("t", [(p, 0) for p in range(4)]))
        c.check("all records are served", high == 300, otherwise=f"{high} of 300 batches")
        broker.kill()


VARIANTS = {"": full_then_start}
