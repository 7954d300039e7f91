"""3 000 topics are made, written, read and deleted, one after another: what stays of them?"""

import os

from wire import NONE, batch, record

TOPICS = 3000


def churn(c):
    broker = c.start()
    client = c.client(broker)
    data = batch([record(os.urandom(30_000))])
    seen = []
    for number in range(1, TOPICS + 1):
        topic = f"c{number % 50}"
        client.create(topic, 4)
        codes = client.produce(topic, [(p, data) for p in range(4)])
        codes += [part["ErrorCode"] for part in client.fetch(topic, [(p, 0) for p in range(4)])]
        codes.append(client.delete(topic))
        assert set(codes) == {NONE}, f"codes {codes}"
        if number % (TOPICS // 5) == 0:
            seen.append((broker.memory(), broker.descriptors(), len(os.listdir(broker.data))))
    first, last = seen[0], seen[-1]
    c.check(
        "memory is flat", last[0] <= 1.25 * first[0] + 16, f"RSS by fifths {' '.join(f'{s[0]:.0f}' for s in seen)} MiB"
    )
    c.check("descriptors are flat", last[1] <= first[1] + 20, f"descriptors {' '.join(str(s[1]) for s in seen)}")
    c.check("folders are flat", last[2] <= first[2] + 20, f"folders {' '.join(str(s[2]) for s in seen)}")
    broker.kill()
    c.again(broker)


VARIANTS = {"": churn}
