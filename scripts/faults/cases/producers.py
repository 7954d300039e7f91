"""10 000 producers in each of 200 partitions: what does their state take, and a start?"""

import os

from wire import NONE, PRODUCE, batch, produce, read, record

PARTITIONS, PRODUCERS = 200, 10_000


def producers(c):
    broker = c.start(memory=512, journal=None)
    client = c.client(broker, timeout=120)
    client.create("t", PARTITIONS)
    codes = set()
    with c.others(broker) as others:
        for producer in range(PRODUCERS):
            data = batch([record(b"hello")], producer_id=producer, epoch=0, sequence=0)
            client.send(*PRODUCE, produce("t", [(partition, data) for partition in range(PARTITIONS)]))
            answer = client.receive()
            if producer % 100 == 0:
                codes |= codes_of(answer)
        c.check("all producers are taken", codes == {NONE}, otherwise=f"codes {codes}")
        large = batch([record(os.urandom(100_000))])
        for number in range(1000):
            client.produce("t", [(3 * number % PARTITIONS, large), ((3 * number + 1) % PARTITIONS, large)])
        others.judge()
    c.note(f"RSS {broker.memory():.0f} MiB")
    broker.kill()
    broker = c.again(broker)
    c.note(f"after the start RSS {broker.memory():.0f} MiB")
    data = batch([record(b"hello")], producer_id=PRODUCERS - 1, epoch=0, sequence=0)
    answer = c.client(broker).ask(*PRODUCE, produce("t", [(0, data)]))["Responses"][0]["PartitionResponses"][0]
    c.check(
        "the last producer's batch is known for a duplicate",
        answer["ErrorCode"] == NONE and answer["BaseOffset"] == PRODUCERS - 1,
        otherwise=f"error {answer['ErrorCode']}, offset {answer['BaseOffset']}",
    )


def codes_of(answer):
    return {part["ErrorCode"] for part in read(*PRODUCE, answer)["Responses"][0]["PartitionResponses"]}


VARIANTS = {"": producers}
