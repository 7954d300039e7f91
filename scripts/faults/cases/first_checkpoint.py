"""600 000 records of a new topic, kill -9 before the first checkpoint: does the start say that it removes them?"""

from wire import NONE, batch, record

PARTITIONS, RECORDS = 12, 600_000


def first_checkpoint(c):
    broker = c.start(memory=512, journal=512)
    client = c.client(broker)
    client.create("t", PARTITIONS)
    each = 500
    data = batch([record(b"%0100d" % number, number) for number in range(each)])
    for number in range(RECORDS // each):
        assert client.produce("t", [(number % PARTITIONS, data)]) == [NONE]
    broker.kill()
    broker = c.again(broker)
    frightening = [line for line in broker.said().splitlines() if "removing" in line]
    c.check(
        "nothing of a known topic is removed, and no line says so",
        not frightening,
        otherwise=f"{len(frightening)} lines, the first: {frightening[:1]}",
    )
    high = sum(part["HighWatermark"] for part in c.client(broker).fetch("t", [(p, 0) for p in range(PARTITIONS)]))
    c.check("nothing acknowledged is lost", high == RECORDS, f"{high} of {RECORDS} records there")


VARIANTS = {"": first_checkpoint}
