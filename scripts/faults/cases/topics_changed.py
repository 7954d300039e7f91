"""A million committed offsets, 1 000 groups of 1 000 partitions on one coordinator: what does a new topic cost others?"""

import time

from offsets_load import commits
from wire import NONE

GROUPS, TOPICS, LIMIT_MS = 1000, 8, 20


def topics_changed(c):
    broker = c.start(memory=512, journal=128, settings=("offsets.topic.num.partitions=1",))
    client = c.client(broker)
    client.create("t", 1000)
    client.find_coordinator("g")
    codes = set()
    for number in range(GROUPS):
        client.send("OffsetCommit", 2, commits(f"g{number}", 1))
        codes.add(client.answer("OffsetCommit", 2)["Topics"][0]["Partitions"][0]["ErrorCode"])
    c.check("a million offsets are committed", codes == {NONE}, otherwise=f"codes {codes}")
    with c.others(broker, group=False) as others:
        time.sleep(2)
        before = others.worst("produce") * 1e3
        stalls = []
        for number in range(TOPICS):
            others.reset()
            client.create(f"new-{number}", 1)
            time.sleep(0.1)
            stalls.append(others.worst("produce") * 1e3)
            time.sleep(0.3)
        c.note(f"produce at worst {before:.0f} ms without new topics")
        c.check(
            "a produce of others takes 20 ms at worst",
            max(stalls) <= LIMIT_MS,
            f"at worst by new topic: {' '.join(f'{stall:.0f}' for stall in stalls)} ms",
            timing=True,
        )


VARIANTS = {"": topics_changed}
