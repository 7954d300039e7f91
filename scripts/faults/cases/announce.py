"""140 clients announce a Produce of 2 MiB each and send it at 25 kB/s: does anybody else wait?"""

import struct
import threading
import time

from others import TOPIC
from wire import batch, record

UPLOADS = 140


def announce(c):
    broker = c.start(memory=1024, journal=None)
    with c.others(broker) as others:
        slow = [c.client(broker) for _ in range(UPLOADS)]
        for client in slow:
            frame = client.frame("Produce", 7, b"")
            client.socket.sendall(struct.pack(">i", 2 << 20) + frame[4:])
        ended = threading.Event()

        def trickle():
            while not ended.wait(1):
                for client in slow:
                    try:
                        client.socket.sendall(bytes(25_000))
                    except OSError:
                        pass

        threading.Thread(target=trickle, daemon=True).start()
        time.sleep(1)
        took = [first_produce(c.client(broker, timeout=5), partition) for partition in range(4)]
        c.check(
            "a new connection does not wait over 1 s",
            max(took) <= 1,
            f"a new connection at worst {max(took) * 1e3:.0f} ms",
            timing=True,
        )
        time.sleep(10)
        others.judge()
        ended.set()


def first_produce(client, partition):
    """How long a new connection waits for its first answer, in seconds; if none comes, how long it waited."""
    began = time.monotonic()
    try:
        client.produce(TOPIC, [(partition, batch([record(b"x")]))])
    except TimeoutError:
        pass
    return time.monotonic() - began


VARIANTS = {"": announce}
