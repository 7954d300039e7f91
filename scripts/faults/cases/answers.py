"""Clients that ask and do not read: what do their answers take? When they read at last, each gets what it asked for.

fetch     2 000 lagging consumers with four fetches each
metadata  10 clients that name a topic 500 000 times in a Metadata request
"""

import os
import struct
import threading
import time

from wire import FETCH, batch, fetch, record, text

READERS = 20


def read_at_last(c, clients, answers):
    """All read at once. A broker may have closed the connection of one that did not read."""
    done, closed = [], []

    def drain(client):
        client.socket.settimeout(60)
        try:
            for _ in range(answers):
                client.receive()
            done.append(client)
        except (EOFError, ConnectionError):
            closed.append(client)
        except OSError:
            pass

    threads = [threading.Thread(target=drain, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    c.check(
        "who reads at last gets all, or is closed",
        len(done) + len(closed) == len(clients),
        f"{len(done)} of {len(clients)} got all, {len(closed)} were closed",
    )


def fetches(c):
    broker = c.start()
    client = c.client(broker)
    client.create("t", 8)
    data = batch([record(os.urandom(900_000))])
    for number in range(160):
        client.produce("t", [(number % 8, data)])
    time.sleep(2)
    # What they ask for is not in memory any more after a start.
    broker.kill()
    broker = c.again(broker)
    with c.others(broker) as others:
        clients = []
        for number in range(2000):
            client = c.client(broker, receive_buffer=4096)
            for _ in range(4):
                client.send(*FETCH, fetch("t", [(number % 8, 0)], partition_max_bytes=50 << 20))
            clients.append(client)
        time.sleep(8)
        others.judge()
        c.note(f"RSS {broker.memory():.0f} MiB beside 2000 clients that do not read")
        for client in clients[READERS:]:
            client.close()
        read_at_last(c, clients[:READERS], 4)


def metadata(c):
    broker = c.start()
    c.client(broker).create("t", 8)
    body = struct.pack(">i", 500_000) + text("t") * 500_000
    with c.others(broker) as others:
        clients = [c.client(broker, receive_buffer=4096) for _ in range(10)]
        for client in clients:
            client.send("Metadata", 1, body)
        time.sleep(8)
        others.judge()
        c.note(f"RSS {broker.memory():.0f} MiB beside 10 clients that do not read")
        read_at_last(c, clients, 1)


VARIANTS = {"fetch": fetches, "metadata": metadata}
