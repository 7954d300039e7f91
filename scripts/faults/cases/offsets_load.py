"""Millions of commits of one group pile up: how long is it without its coordinator after a start?

Four million commits, with LONG=1 eight million as well.
"""

import struct
import time

from case import LONG, size_mib
from others import committed
from wire import NONE, batch, record, text

LIMIT_SECONDS = 0.5


def commits(group, offset):
    """The body of an OffsetCommit of version 2: 1 000 partitions of topic t."""
    head = (
        text(group) + struct.pack(">i", -1) + text("") + struct.pack(">qi", -1, 1) + text("t") + struct.pack(">i", 1000)
    )
    return head + b"".join(struct.pack(">iqh", partition, offset, 0) for partition in range(1000))


def load(count):
    def offsets_load(c):
        broker = c.start(memory=512, journal=128)
        client = c.client(broker)
        client.create("t", 1000)
        client.find_coordinator("g")
        codes = set()
        for number in range(1, count // 1000 + 1):
            client.send("OffsetCommit", 2, commits("g", number))
            # After the correlation id, a count, a name, a count and an index.
            codes.add(struct.unpack(">h", client.receive()[19:21])[0])
        c.check("the commits are taken", codes == {NONE}, otherwise=f"codes {codes}")
        c.note(f"{size_mib(broker.data):.0f} MiB on disk")
        broker.kill()
        broker = c.again(broker)
        began = time.monotonic()
        client, waited = c.client(broker), None
        other, worst = c.client(broker), 0.0
        while waited is None and time.monotonic() - began < 60:
            offset, code = committed(client, "g", "t", 999)
            if code == NONE:
                waited = time.monotonic() - began
            asked = time.monotonic()
            other.produce("t", [(0, batch([record(b"x")]))])
            worst = max(worst, time.monotonic() - asked)
            time.sleep(0.005)
        c.check(
            "the group has its coordinator 0.5 s after the start",
            waited is not None and waited <= LIMIT_SECONDS,
            f"{count} commits: {f'{waited:.2f}' if waited else 'over 60'} s",
            timing=True,
        )
        c.check(
            "no small request of others waits over 1 s",
            worst <= 1,
            f"produce meanwhile at worst {worst * 1e3:.0f} ms",
            timing=True,
        )
        c.check("the last commit is read", offset == count // 1000, otherwise=f"offset {offset}")

    return offsets_load


VARIANTS = {"4M": load(4_000_000), **({"8M": load(8_000_000)} if LONG else {})}
