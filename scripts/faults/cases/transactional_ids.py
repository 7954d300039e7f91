"""300 000 transactional ids, each of one producer that is gone: what do their coordinators keep?

Kafka keeps them for seven days, in memory. Here they stay within --memory, or are refused.
"""

import collections
import threading
import time

from wire import NONE, Client

IDS, CONNECTIONS, PIPELINED = 300_000, 16, 64


def transactional_ids(c):
    broker = c.start(memory=128)
    client = c.client(broker)
    client.ask("FindCoordinator", 1, {"Key": "x", "KeyType": 1})
    until = time.monotonic() + 15
    while client.ask("InitProducerId", 0, asking("x"))["ErrorCode"] != NONE:
        assert time.monotonic() < until, "there is no transaction coordinator"
        time.sleep(0.05)
    codes = collections.Counter()

    def producers(first):
        mine = Client(broker.port, timeout=60)
        for start in range(first, IDS, CONNECTIONS * PIPELINED):
            for number in range(start, start + PIPELINED):
                mine.send("InitProducerId", 0, asking(f"application-{number}"))
            for _ in range(PIPELINED):
                codes[mine.answer("InitProducerId", 0)["ErrorCode"]] += 1

    with c.others(broker) as others:
        began = time.monotonic()
        threads = [threading.Thread(target=producers, args=(n * PIPELINED,), daemon=True) for n in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        c.note(f"{sum(codes.values())} ids in {time.monotonic() - began:.0f} s, by code {dict(codes)}")
        c.check("each is taken, or refused with its code", sum(codes.values()) >= IDS)
        others.judge()
    c.note(f"RSS {broker.memory():.0f} MiB")
    broker.kill()
    c.again(broker)


def asking(transactional_id):
    return {"TransactionalId": transactional_id, "TransactionTimeoutMs": 60_000}


VARIANTS = {"": transactional_ids}
