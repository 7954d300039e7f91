"""Clients that have nothing to do with a case: what a fault makes them wait, and whether their group is served.

They live in a process of their own, so that a case that is busy itself does not slow their clocks. Four connections
produce 100 bytes to each of eight partitions, a member heartbeats, commits and reads what it committed, one asks for
producer ids, and one makes topics if the case wants it. Beside them a bare file is written and flushed on the same
disk, which excuses nothing, but tells a slow broker from a slow machine.
"""

import multiprocessing
import os
import threading
import time

import wire

CONNECTIONS, PARTITIONS, PATIENCE = 4, 8, 20
KINDS = ["produce", "group", "producer id", "create topic"]
TOPIC, GROUP = "others", "others-group"


class Others:
    def __init__(self, case, port, topics=False, group=True):
        self.case, self.port = case, port
        self.kinds = [k for k in KINDS if (k != "group" or group) and (k != "create topic" or topics)]
        fork = multiprocessing.get_context("fork")
        # Of each worker: the longest wait, when its request under way was sent (0: none is), and how many it had.
        self.workers = [k for k in self.kinds for _ in range(CONNECTIONS if k == "produce" else 1)]
        self.waits, self.since, self.counts = (fork.Array("d", len(self.workers), lock=False) for _ in range(3))
        self.troubles = fork.SimpleQueue()
        self.flushes = fork.Array("d", 1, lock=False)
        self.ended = fork.Event()
        client = wire.Client(port)
        client.create(TOPIC, PARTITIONS)
        if group:
            client.find_coordinator(GROUP)
        client.close()
        self.process = fork.Process(target=self.live, daemon=True)
        self.process.start()
        until = time.monotonic() + PATIENCE
        while not all(self.counts) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.3)
        self.reset()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    # --- what the case asks

    def reset(self):
        """Forget the waits so far."""
        for worker in range(len(self.workers)):
            self.waits[worker] = self.counts[worker] = 0
        self.flushes[0] = 0

    def worst(self, kind=None):
        """The longest wait since the last reset, in seconds, that of a request under way included."""
        worst = 0.0
        for index, its_kind in enumerate(self.workers):
            if kind in (None, its_kind):
                since = self.since[index]
                worst = max(worst, self.waits[index], time.monotonic() - since if since else 0)
        return worst

    def waiting(self):
        """How long the oldest request under way has waited by now, in seconds."""
        return max(time.monotonic() - since for since in [*filter(None, self.since), time.monotonic()])

    def stop(self):
        self.ended.set()
        self.process.join(1)
        self.process.kill()
        self.process.join()

    def judge(self, limit=1.0):
        """The rules about others: their waits since the last reset, and that they were served all along."""
        waits = {kind: self.worst(kind) for kind in self.kinds}
        kind = max(waits, key=waits.get)
        self.case.check(
            "no small request of others waits over 1 s",
            waits[kind] <= limit,
            f"others at worst {waits[kind] * 1e3:.0f} ms ({kind}; a bare flush {self.flushes[0] * 1e3:.0f} ms)",
            timing=True,
        )
        self.served()

    def served(self):
        """That no request of theirs was refused or lost so far."""
        troubles = []
        while not self.troubles.empty():
            troubles.append(self.troubles.get())
        for rule, of_group in (("groups are served", True), ("others are served", False)):
            mine = [trouble for trouble in troubles if trouble.startswith("group") == of_group]
            self.case.check(rule, not mine, otherwise=f"{len(mine)} refusals, the first: {mine[:1]}")

    # --- in the process of the clients

    def live(self):
        threading.Thread(target=self.flushing, daemon=True).start()
        for index, kind in enumerate(self.workers):
            threading.Thread(target=self.work, args=(index, kind), daemon=True).start()
        self.ended.wait()

    def work(self, index, kind):
        step = {
            "produce": self.producing,
            "group": self.in_group,
            "producer id": self.asking_ids,
            "create topic": self.creating,
        }[kind]
        while not self.ended.is_set():
            try:
                self.client = None
                step(index, wire.Client(self.port, timeout=PATIENCE))
            except (OSError, EOFError) as error:
                if self.since[index]:
                    self.waits[index] = max(self.waits[index], time.monotonic() - self.since[index])
                self.since[index] = 0
                self.trouble(f"{kind}: {type(error).__name__} {error}")
                time.sleep(0.1)

    def flushing(self):
        with open(self.case.work / "flushed", "wb", buffering=0) as file:
            while not self.ended.is_set():
                began = time.monotonic()
                file.seek(0)
                file.write(bytes(4096))
                os.fdatasync(file.fileno())
                self.flushes[0] = max(self.flushes[0], time.monotonic() - began)
                time.sleep(0.05)

    def trouble(self, what):
        if not self.ended.is_set():
            self.troubles.put(what)

    def timed(self, index, ask):
        """Runs one request; its wait counts."""
        began = self.since[index] = time.monotonic()
        answer = ask()
        self.waits[index] = max(self.waits[index], time.monotonic() - began)
        self.since[index] = 0
        self.counts[index] += 1
        return answer

    def producing(self, index, client):
        small = wire.batch([wire.record(b"x" * 100)])
        while not self.ended.is_set():
            for partition in range(PARTITIONS):
                code = self.timed(index, lambda: client.produce(TOPIC, [(partition, small)]))[0]
                if code != wire.NONE:
                    self.trouble(f"produce: error {code}")
                time.sleep(0.002)

    def asking_ids(self, index, client):
        while not self.ended.is_set():
            ask = {"TransactionalId": None, "TransactionTimeoutMs": 60000}
            code = self.timed(index, lambda: client.ask("InitProducerId", 0, ask))["ErrorCode"]
            if code != wire.NONE:
                self.trouble(f"producer id: error {code}")
            time.sleep(0.01)

    def creating(self, index, client):
        number = 0
        while not self.ended.is_set():
            number += 1
            code = self.timed(index, lambda: client.try_create(f"others-{number}", 1))
            if code not in (wire.NONE, 36):
                self.trouble(f"create topic: error {code}")
            time.sleep(0.1)

    def in_group(self, index, client):
        member, generation = join(client, GROUP)
        refused = lambda what, code: self.trouble(f"group: {what} has error {code}")
        while not self.ended.is_set():
            me = {"GroupId": GROUP, "GenerationId": generation, "MemberId": member}
            code = self.timed(index, lambda: client.ask("Heartbeat", 0, me))["ErrorCode"]
            if code != wire.NONE:
                refused("Heartbeat", code)
                time.sleep(0.2)
                member, generation = join(client, GROUP)
                continue
            code = self.timed(index, lambda: commit(client, GROUP, TOPIC, 0, 1, member, generation))
            if code != wire.NONE:
                refused("OffsetCommit", code)
            code = self.timed(index, lambda: committed(client, GROUP, TOPIC, 0))[1]
            if code != wire.NONE:
                refused("OffsetFetch", code)
            time.sleep(0.1)


def join(client, group, metadata=b"", session_ms=10000):
    """Joins as the only member; its id and generation."""
    while True:
        answer = client.ask(
            "JoinGroup",
            2,
            {
                "GroupId": group,
                "SessionTimeoutMs": session_ms,
                "RebalanceTimeoutMs": session_ms,
                "ProtocolType": "consumer",
                "Protocols": [{"Name": "range", "Metadata": metadata}],
            },
        )
        if answer["ErrorCode"] == wire.NONE:
            member, generation = answer["MemberId"], answer["GenerationId"]
            answer = client.ask(
                "SyncGroup",
                0,
                {
                    "GroupId": group,
                    "GenerationId": generation,
                    "MemberId": member,
                    "Assignments": [{"MemberId": member, "Assignment": b"\0"}],
                },
            )
            if answer["ErrorCode"] == wire.NONE:
                return member, generation
        time.sleep(0.05)


def commit(client, group, topic, partition, offset, member="", generation=-1):
    """The error code of a commit of one partition."""
    part = {"PartitionIndex": partition, "CommittedOffset": offset, "CommittedMetadata": None}
    answer = client.ask(
        "OffsetCommit",
        2,
        {
            "GroupId": group,
            "GenerationIdOrMemberEpoch": generation,
            "MemberId": member,
            "Topics": [{"Name": topic, "Partitions": [part]}],
        },
    )
    return answer["Topics"][0]["Partitions"][0]["ErrorCode"]


def committed(client, group, topic, partition):
    """The committed offset and the error code."""
    answer = client.ask(
        "OffsetFetch", 2, {"GroupId": group, "Topics": [{"Name": topic, "PartitionIndexes": [partition]}]}
    )
    if answer["ErrorCode"] != wire.NONE:
        return None, answer["ErrorCode"]
    part = answer["Topics"][0]["Partitions"][0]
    return part["CommittedOffset"], part["ErrorCode"]
