"""32 766 InitProducerId of one transactional id, one after another. Apache Kafka takes 2 to 3 s."""

import time

from wire import NONE

REQUESTS, LIMIT_SECONDS = 32_766, 6


def producer_ids(c):
    broker = c.start()
    client = c.client(broker)
    ask = {"TransactionalId": "x", "TransactionTimeoutMs": 60_000}
    # The coordinator's topic is made when somebody looks for it.
    until = time.monotonic() + 15
    client.ask("FindCoordinator", 1, {"Key": "x", "KeyType": 1})
    while client.ask("InitProducerId", 0, ask)["ErrorCode"] != NONE:
        assert time.monotonic() < until, "there is no transaction coordinator"
        time.sleep(0.05)
    began, codes = time.monotonic(), set()
    for _ in range(REQUESTS):
        codes.add(client.ask("InitProducerId", 0, ask)["ErrorCode"])
    took = time.monotonic() - began
    c.check("they are served", codes == {NONE}, otherwise=f"codes {codes}")
    c.check("they take twice Kafka's time at most", took <= LIMIT_SECONDS, f"{took:.1f} s", timing=True)


VARIANTS = {"": producer_ids}
