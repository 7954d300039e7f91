"""One file of one partition is damaged while the broker is stopped: what becomes of all others?

gone, cut    its active segment is missing, or 1 MB short: that partition alone may refuse
index        its offset index is missing
checkpoints  the first of the two mirrors of every checkpoint is missing
"""

import collections
import os
import time

from wire import KAFKA_STORAGE_ERROR, NONE, batch, record


def damage(how):
    def one_bad_file(c):
        broker = c.start()
        client = c.client(broker)
        client.create("t", 4)
        data = batch([record(os.urandom(600_000))])
        for number in range(40):
            client.produce("t", [(number % 4, data)])
        time.sleep(2)
        c.check("a clean stop", broker.stop() == 0, otherwise=broker.last_words())
        segment = sorted((broker.data / "t-0").glob("*.log"))[-1]
        if how == "gone":
            segment.unlink()
        elif how == "cut":
            os.truncate(segment, segment.stat().st_size - 1_000_000)
        elif how == "index":
            segment.with_suffix(".index").unlink()
        else:
            for mirror in broker.data.glob("@journal/*/checkpoint-*-a"):
                mirror.unlink()
        wounded = {0} if how in ("gone", "cut") else set()
        for life in range(3):
            broker = c.again(broker)
            serves(c, broker, data, wounded, life)
            broker.kill()

    return one_bad_file


def serves(c, broker, data, wounded, life):
    client = c.client(broker, timeout=10)
    codes = collections.defaultdict(set)
    for partition in (1, 2, 3, 0):
        for _ in range(25):
            codes[partition] |= set(client.produce("t", [(partition, data)]))
    time.sleep(3)
    healthy = {p: seen for p, seen in codes.items() if p not in wounded}
    c.check(
        f"the other partitions take records, start {life + 1}",
        all(seen == {NONE} for seen in healthy.values()),
        otherwise=f"codes {healthy}",
    )
    for partition in wounded:
        c.check(
            "the damaged partition takes records or says why not",
            codes[partition] <= {NONE, KAFKA_STORAGE_ERROR, 2},
            f"damaged: codes {codes[partition]}",
        )
    lost = [
        part["PartitionIndex"]
        for part in client.fetch("t", [(p, 0) for p in healthy])
        if part["ErrorCode"] != NONE or part["HighWatermark"] < 10 + 25 * (life + 1) or not part["Records"]
    ]
    c.check("all other partitions are read", not lost, otherwise=f"not: {lost}")


VARIANTS = {how: damage(how) for how in ("gone", "cut", "index", "checkpoints")}
