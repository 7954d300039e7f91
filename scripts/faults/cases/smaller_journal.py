"""Batches of 10 MB are acknowledged, kill -9, and the next start has less journal for each core.

flag   --journal 64MiB instead of 512MiB
cores  two cores over the journal that one had
"""

import os
import time

from case import CORES, Skipped
from wire import NONE, batch, record

SIZE = 10_000_000


def shrink(before, after):
    def smaller_journal(c):
        broker = c.start(memory=512, **before)
        client = c.client(broker, timeout=60)
        client.create("t", 4, {"max.message.bytes": "12000000"})
        data = batch([record(os.urandom(SIZE))])
        codes = [code for partition in range(4) for code in client.produce("t", [(partition, data)])]
        c.check("a batch of 10 MB is taken", set(codes) == {NONE}, otherwise=f"codes {codes}")
        time.sleep(0.3)
        broker.kill()
        for life in (after, after, before):
            broker = c.again(broker, **life)
            client = c.client(broker)
            parts = [client.fetch("t", [(p, 0)], partition_max_bytes=SIZE)[0] for p in range(4)]
            whole = [part["HighWatermark"] == 1 and (part["Records"] or b"")[12:] == data[12:] for part in parts]
            c.check(
                "each acknowledged batch is read back",
                all(whole),
                otherwise=f"whole {whole}, errors {[p['ErrorCode'] for p in parts]}",
            )
            broker.kill()

    return smaller_journal


def cores(c):
    if "," not in CORES:
        raise Skipped("there is one core only")
    shrink(dict(journal=256, cores=CORES.split(",")[0]), dict(journal=128, cores=CORES))(c)


VARIANTS = {"flag": shrink(dict(journal=512), dict(journal=64)), "cores": cores}
