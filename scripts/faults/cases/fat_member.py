"""Members of groups with much metadata.

big   a member joins again and again whose record no batch holds; its neighbours on the same coordinator go on
stay  500 groups of one member with 1 MB of metadata, twice --memory in all, which stay
gone  1 000 members with 1 MB of metadata join, and go before they have an answer: what is kept of them?
"""

import collections
import os
import time

from offsets_load import commits
from wire import COORDINATOR_ERRORS, NONE

SETTINGS = ("offsets.topic.num.partitions=1",)


def joining(group, metadata):
    return {
        "GroupId": group,
        "SessionTimeoutMs": 1_800_000,
        "RebalanceTimeoutMs": 1_800_000,
        "ProtocolType": "consumer",
        "Protocols": [{"Name": "range", "Metadata": metadata}],
    }


def big(c):
    broker = c.start(settings=SETTINGS)
    client = c.client(broker)
    client.find_coordinator("h")
    client.create("t", 1000)
    # What the coordinator reads again if it gives up what it knows.
    for number in range(500):
        client.send("OffsetCommit", 2, commits("h", number))
        client.receive()
    with c.others(broker) as others:
        codes, until = [], time.monotonic() + 12
        while time.monotonic() < until:
            client = c.client(broker, timeout=20)
            answer = client.ask("JoinGroup", 2, joining("h", os.urandom(20_000_000)))
            codes.append(answer["ErrorCode"])
            if answer["ErrorCode"] == NONE:
                codes.append(
                    client.ask(
                        "SyncGroup",
                        0,
                        {
                            "GroupId": "h",
                            "GenerationId": answer["GenerationId"],
                            "MemberId": answer["MemberId"],
                            "Assignments": [{"MemberId": answer["MemberId"], "Assignment": b"\0" * 4}],
                        },
                    )["ErrorCode"]
                )
            client.close()
            time.sleep(0.2)
        refused = set(codes) - {NONE}
        c.check(
            "the join is refused, with a code that does not say to try again",
            refused and not refused & set(COORDINATOR_ERRORS),
            f"{len(codes)} answers, codes {sorted(set(codes))}",
        )
        others.judge()


def stay(c):
    broker = c.start()
    c.client(broker).find_coordinator("h")
    metadata = os.urandom(1_000_000)
    with c.others(broker) as others:
        codes = collections.Counter()
        for number in range(500):
            client = c.client(broker)
            answer = client.ask("JoinGroup", 2, joining(f"h{number}", metadata))
            code = answer["ErrorCode"]
            if code == NONE:
                me = {"GroupId": f"h{number}", "GenerationId": answer["GenerationId"], "MemberId": answer["MemberId"]}
                assignments = [{"MemberId": answer["MemberId"], "Assignment": b"\0" * 4}]
                code = client.ask("SyncGroup", 0, {**me, "Assignments": assignments})["ErrorCode"]
            codes[code] += 1
        c.note(f"joins by code {dict(codes)}")
        c.check("some join", codes[NONE] > 0)
        others.judge()
    c.note(f"RSS {broker.memory():.0f} MiB")


def gone(c):
    broker = c.start(settings=SETTINGS)
    c.client(broker).find_coordinator("h")
    metadata = os.urandom(1_000_000)
    with c.others(broker) as others:
        for number in range(1000):
            client = c.client(broker)
            client.send("JoinGroup", 2, joining(f"h{number % 10}", metadata))
            time.sleep(0.005)
            client.close()
        time.sleep(2)
        others.judge()
    c.note(f"RSS {broker.memory():.0f} MiB after 1000 members of 1 MB")


VARIANTS = {"big": big, "stay": stay, "gone": gone}
