"""A disk of 512 MiB runs full under a producer while a group reads along. Produce is refused, nothing else.

kill9, term  the broker is ended so and started on the full disk: it listens, serves reads, groups and the deletion of a
             topic, and takes records again when there is room
stop         SIGTERM on the full disk: its last sentence and its status say the same
"""

import os
import time

from others import commit, committed, join
from wire import NONE, batch, record

FLAGS = dict(memory=256, journal=64)


def run_full(c):
    """A broker on a full disk, what it took, and its client."""
    broker = c.start(data=c.disk("512M") / "data", **FLAGS)
    client = c.client(broker)
    client.create("t", 4)
    client.find_coordinator("g")
    member = join(client, "g", session_ms=6000)
    code = commit(client, "g", "t", 0, 1, *member)
    assert code == NONE, f"OffsetCommit: error {code}"
    data = batch([record(os.urandom(500_000))])
    taken = 0
    while (code := client.produce("t", [(taken % 4, data)])[0]) == NONE:
        taken += 1
        assert taken < 5000, "the disk never runs full"
        if taken % 20 == 0:
            heartbeat(client, member)
    c.note(f"full after {taken} batches of 500 kB, refused with {code}")
    return broker, client, member, taken


def heartbeat(client, member):
    me = {"GroupId": "g", "GenerationId": member[1], "MemberId": member[0]}
    return client.ask("Heartbeat", 0, me)["ErrorCode"]


def groups_go_on(c, client, member, seconds=8):
    """Heartbeats and committed offsets write nothing: they are served on a full disk, each within a second."""
    codes, worst, until = [], 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        codes += [heartbeat(client, member), committed(client, "g", "t", 0)[1]]
        worst = max(worst, (time.monotonic() - began) / 2)
        time.sleep(0.2)
    bad = sorted({code for code in codes if code != NONE})
    c.check(
        "the group goes on: heartbeats and OffsetFetch",
        not bad,
        otherwise=f"errors {bad} in {sum(map(bool, codes))} of {len(codes)}",
    )
    c.check("no small request waits over 1 s", worst <= 1, f"group at worst {worst * 1e3:.0f} ms", timing=True)
    began = time.monotonic()
    code = commit(client, "g", "t", 0, 2, *member)
    c.check(
        "a commit is taken, or refused with its code",
        True,
        f"commit: error {code} after {time.monotonic() - began:.2f} s",
    )


def reads_go_on(c, client, when):
    parts = client.fetch("t", [(p, 0) for p in range(4)])
    c.check(
        f"a reader reads on {when}",
        all(p["ErrorCode"] == NONE for p in parts) and any(p["Records"] for p in parts),
        otherwise=f"errors {[p['ErrorCode'] for p in parts]}",
    )
    return sum(part["HighWatermark"] for part in parts)


def restart(how):
    def full_disk(c):
        broker, client, member, taken = run_full(c)
        groups_go_on(c, client, member)
        reads_go_on(c, client, "on the full disk")
        if how == "kill9":
            broker.kill()
        else:
            status = broker.stop(30)
            c.check("SIGTERM ends it", status is not None, f"SIGTERM: status {status}")
        broker = c.again(broker, wait=20)
        client = c.client(broker, timeout=20)
        kept = reads_go_on(c, client, "after a start on the full disk")
        c.check("nothing acknowledged is lost", kept >= taken, f"{kept} of {taken} batches there")
        client.find_coordinator("g")
        code = committed(client, "g", "t", 0)[1]
        c.check("committed offsets are served after the start", code == NONE, otherwise=f"OffsetFetch: error {code}")
        code = client.delete("t")
        c.check("a topic can be deleted to make room", code == NONE, otherwise=f"DeleteTopics: error {code}")
        client.create("u", 1)
        small, code, until = batch([record(b"x")]), None, time.monotonic() + 30
        began = time.monotonic()
        while code != NONE and time.monotonic() < until:
            code = client.produce("u", [(0, small)])[0]
        c.check(
            "with room again, records are taken",
            code == NONE,
            f"records again {time.monotonic() - began:.1f} s after the deletion",
            otherwise=f"error {code}",
        )

    return full_disk


def stop(c):
    broker, *_ = run_full(c)
    status = broker.stop(30)
    said = broker.said()
    promises = "everything is on stable storage" in said
    incomplete = "clean stop did not complete" in said
    c.check(
        "the last sentence and the status of a stop say the same",
        status is not None and not (incomplete and (promises or status == 0)),
        f"status {status}, incomplete {incomplete}, 'everything is on stable storage' {promises}",
    )


VARIANTS = {"kill9": restart("kill9"), "term": restart("term"), "stop": stop}
