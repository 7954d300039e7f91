"""Readers that wait: what is left of them when another partition has answered, or when their client is gone?

two   20 consumers of one hot and seven idle partitions, first with a wait of 20 ms, then of 10 minutes: the longer wait
      costs nothing, also not by and by
gone  clients ask for a partition without records, to wait for ever, and go
"""

import multiprocessing
import threading
import time

from wire import FETCH, Client, batch, fetch, record

CONSUMERS, SECONDS = 20, 12


def consume(port, wait_ms, counts, ended):
    """In a process of its own: consumers in threads, and a producer."""
    small = batch([record(b"x" * 100)])

    def consumer(index):
        client, offset = Client(port, timeout=60), 0
        while not ended.is_set():
            client.send(*FETCH, fetch("t", [(0, offset)] + [(p, 0) for p in range(1, 8)], wait_ms=wait_ms))
            answer = client.receive()
            # The high watermark of the hot partition, the first of the answer: after correlation id, throttle time,
            # count, name, count, index and error.
            offset = int.from_bytes(answer[25:33], "big")
            counts[index] += 1

    for index in range(CONSUMERS):
        threading.Thread(target=consumer, args=(index,), daemon=True).start()
    producer = Client(port)
    while not ended.is_set():
        producer.produce("t", [(0, small)])


def measure(c, broker, wait_ms):
    """By quarters of the time: fetches, and microseconds of processor time for each."""
    fork = multiprocessing.get_context("fork")
    counts, ended = fork.Array("q", CONSUMERS, lock=False), fork.Event()
    process = fork.Process(target=consume, args=(broker.port, wait_ms, counts, ended), daemon=True)
    process.start()
    time.sleep(1)
    quarters = []
    for _ in range(4):
        before, cpu = sum(counts), broker.cpu()
        time.sleep(SECONDS / 4)
        fetches = max(1, sum(counts) - before)
        quarters.append((fetches, (broker.cpu() - cpu) * 1e6 / fetches))
    ended.set()
    process.join(1)
    process.kill()
    return quarters


def two(c):
    broker = c.start()
    c.client(broker).create("t", 8)
    short = measure(c, broker, 20)
    rss = broker.memory()
    long = measure(c, broker, 600_000)
    shown = "/".join(f"{cost:.0f}" for _, cost in short), "/".join(f"{cost:.0f}" for _, cost in long)
    cheapest = min(cost for _, cost in short)
    c.note(f"us a fetch by quarters: wait 20 ms {shown[0]}, 10 min {shown[1]}")
    c.note(f"{long[-1][0] / (SECONDS / 4):.0f} fetches/s at last")
    c.check(
        "a long wait costs no more than a short one",
        long[-1][1] <= 1.6 * cheapest,
        f"{long[-1][1]:.0f} us against {cheapest:.0f} us",
        timing=True,
    )
    c.check(
        "waiters are cancelled when their fetch ends",
        broker.memory() - rss <= 16,
        f"grew by {broker.memory() - rss:.0f} MiB",
    )


def gone(c):
    broker = c.start()
    client = c.client(broker)
    client.create("t", 8)
    with c.others(broker) as others:
        base = broker.memory()
        # Few clients with many partitions each, then many with few.
        for partitions, clients, pause in ((2000, 400, 0.004), (8, 20_000, 0)):
            for number in range(clients):
                reader = Client(broker.port)
                reader.send(*FETCH, fetch("t", [(p % 8, 0) for p in range(partitions)], wait_ms=2**31 - 1))
                time.sleep(pause)
                reader.close()
        time.sleep(3)
        left = broker.memory() - base
        c.check("nothing is kept of clients that are gone", left <= 32, f"{left:.0f} MiB kept of 20 400 gone clients")
        began = time.monotonic()
        client.produce("t", [(p, batch([record(b"x")])) for p in range(8)])
        took = time.monotonic() - began
        c.check("a produce there does not wait for the dead", took <= 1, f"produce {took * 1e3:.0f} ms", timing=True)
        others.judge()


VARIANTS = {"two": two, "gone": gone}
