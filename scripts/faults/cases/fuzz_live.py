"""Requests of all APIs and versions with edge values against a broker with topics, groups and transactions.

20 s of one seed; with LONG=1 two minutes of each of three.
"""

import random
import struct
import time

import schema
from big_arrays import id_of, served
from case import LONG
from wire import APIS, Client, batch, record

CONNECTIONS = 6
SETTINGS = (
    "share.coordinator.state.topic.num.partitions=2",
    "offsets.topic.num.partitions=4",
    "transaction.state.log.num.partitions=4",
    "allow.everyone.if.no.acl.found=true",
)
# Produce, Fetch, groups, transactions and share groups are asked more often, DeleteTopics and UpdateFeatures seldom:
# they leave nothing to ask for.
OFTEN = {0, 1, 8, 9, 11, 12, 14, 22, 24, 25, 26, 28, 68, 69, 76, 78, 79, 83, 84, 85, 86, 87, 90, 91, 92}
SELDOM = {20: 0.3, 57: 0.15}

CONFIGS = """retention.ms segment.bytes segment.ms max.message.bytes cleanup.policy compression.type message.timestamp.type
group.share.record.lock.duration.ms share.auto.offset.reset producer_byte_rate request_percentage share.version
transaction.version compression.zstd.level consumer.session.timeout.ms producer.id.expiration.ms max.connections""".split()
VALUES = """1 0 -1 100 9223372036854775807 -9223372036854775808 2147483647 compact delete compact,delete zstd gzip true
earliest é 1048588""".split()
PATTERNS = ["t.*", "(a|b)*", "(", ".*", "(?i)[[:alpha:]]{1,1000}", "\\p{L}+", "((((a*)*)*)*)*b"]
SUBSCRIPTIONS = [
    b"",
    struct.pack(">hih", 0, 1, 1) + b"t" + struct.pack(">i", 0),
    struct.pack(">hi", 0, 2**31 - 1),
    struct.pack(">hih", 3, 1, 1) + b"t" + struct.pack(">ii", -1, 0) + bytes(8),
    struct.pack(">hi", 1, -1),
]


class Edges:
    """Values at the edges of their types, and often enough ones that mean something here."""

    def __init__(self, chance, topic_ids):
        self.chance, self.topic_ids = chance, topic_ids

    def tagged(self, field):
        return self.chance.random() < 0.5

    def array(self, path, nullable, make):
        often = self.chance.random()
        if nullable and often < 0.15:
            return None
        count = 0 if often < 0.2 else 1 if often < 0.8 else 2 if often < 0.95 else self.chance.choice([3, 5, 20])
        return [make() for _ in range(count)]

    def leaf(self, path, kind, nullable):
        name = path.rsplit(".", 1)[1].lower()
        if nullable and self.chance.random() < 0.2:
            return None
        if kind in ("string", "bytes"):
            return self.string(path, name) if kind == "string" else self.blob(path)
        if kind == "records":
            return self.records()
        if kind == "uuid":
            return self.chance.choice(self.topic_ids * 2 + [bytes(16), bytes(15) + b"\1", self.chance.randbytes(16)])
        if kind == "float64":
            return self.chance.choice([0.0, 1.0, -1.0, 1e9, float("nan"), float("inf"), 1e-300, 1e308])
        return {} if kind == "struct" else self.integer(name, kind)

    def integer(self, name, kind):
        if kind == "bool":
            return self.chance.random() < 0.5
        bits = int(kind.lstrip("uint"))
        lowest, highest = (0, 2**bits - 1) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        known = self.known(name) if self.chance.random() < 0.7 else None
        edges = [
            0,
            0,
            0,
            1,
            1,
            2,
            3,
            -1,
            -1,
            -2,
            5,
            10,
            100,
            1000,
            30000,
            highest,
            lowest,
            highest - 1,
            highest // 2,
            1 << bits // 2,
        ]
        return max(lowest, min(highest, self.chance.choice(known or edges)))

    def known(self, name):
        for word, values in (
            ("timeout", [0, 1, 10, 100, 500, 6000, 30000]),
            ("maxwait", [0, 1, 10, 100, 500]),
            ("producerid", [0, 1, 2, 1000, 1001]),
            ("epoch", [0, 1, 2, 3, -1, 5]),
            ("factor", [1, -1]),
            ("numpartitions", [1, 2, 3, -1, 0, -5]),
            ("partition", [0, 1, 2, 3]),
            ("count", [1, 2, 4, 10]),
            ("keytype", [0, 1, 2, 3, 4]),
            ("resourcetype", [0, 1, 2, 3, 4, 5, 6, 7, 16, 32]),
        ):
            if word in name:
                return values
        return None

    def string(self, path, name):
        pick, number = self.chance.choice, self.chance.randrange(50)
        if "topic" in name or (name == "name" and "topic" in path.lower()):
            return pick(
                [
                    "t",
                    "t",
                    "u",
                    "__consumer_offsets",
                    "__transaction_state",
                    "__share_group_state",
                    "nope",
                    f"new{number % 20}",
                    "",
                ]
            )
        for word, values in (
            ("transactionalid", ["x", "x", "y", f"z{number}", ""]),
            ("group", ["g", "g", "h", "s", "sg", ""]),
            ("member", ["", "m1", "m2", f"{self.chance.getrandbits(64):x}"]),
            ("assignor", ["range", "uniform", "simple", "x"]),
            ("protocol", ["consumer", "connect", "range", "p"]),
            ("key", ["g", "x", "g:AAAAAAAAAAAAAAAAAAAAAA:0", "sg:", "::", "a:b:c:d"]),
            ("regex", PATTERNS),
            ("name", CONFIGS),
            ("config", CONFIGS),
            ("value", VALUES),
        ):
            if word in name:
                return pick(values)
        return pick(["", "a", "User:a", "*", "x" * 300, "é", "client-id", "user", "ip", "127.0.0.1", "1"])

    def blob(self, path):
        pick = self.chance.choice
        if "metadata" in path.lower() or "assignment" in path.lower():
            return pick([*SUBSCRIPTIONS, self.chance.randbytes(20)])
        return pick([b"", bytes(4), self.chance.randbytes(10)])

    def records(self):
        pick = self.chance.choice
        made = [record(b"v" * pick([0, 1, 100]), number, b"k") for number in range(self.chance.randrange(1, 4))]
        lies = {}
        if self.chance.random() < 0.3:
            lies = {"count": pick([0, 1, -1, 2**31 - 1, 5]), "last": pick([0, -1, 2**31 - 1, 5])}
        return batch(
            made,
            producer_id=pick([-1, 0, 1, 1000, 1001, 2**63 - 1]),
            epoch=pick([0, 0, 1, -1, 32767]),
            sequence=pick([0, 0, 1, 3, -1, 2**31 - 1, 2**31 - 2]),
            attributes=pick([0, 0, 0x10, 0x10, 0x20, 0x30, 1, 2, 3, 4, 5, 8]),
            timestamp=pick([None, None, 0, -1, 2**63 - 1, -(2**63)]),
            **lies,
        )


def fuzz(seed, seconds):
    def fuzz_live(c):
        broker = c.start(settings=SETTINGS)
        chance = random.Random(seed)
        edges = Edges(chance, remake(broker))
        versions = served(c.client(broker))
        apis = [api for api in APIS.values() if api.key in versions]
        weights = [3 if api.key in OFTEN else SELDOM.get(api.key, 1) for api in apis]
        clients = [Client(broker.port) for _ in range(CONNECTIONS)]
        asked = answered = 0
        last, until, remade = [], time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < until:
            api = chance.choices(apis, weights)[0]
            version = chance.randint(*versions[api.key])
            at = chance.randrange(CONNECTIONS)
            clients[at].socket.settimeout(chance.choice((0.05, 0.3)))
            last = [*last[-2:], f"{api.name} v{version}"]
            try:
                clients[at].send(api.name, version, schema.compose(api, version, edges))
                asked += 1
                clients[at].receive()
                answered += 1
            except (OSError, EOFError):
                time.sleep(0.02)
                if broker.ended():
                    c.check("no request ends the broker", False, f"the last three: {', '.join(last)}")
                    return
                clients[at].close()
                clients[at] = Client(broker.port)
            if time.monotonic() - remade > 2:
                edges.topic_ids, remade = remake(broker) or edges.topic_ids, time.monotonic()
        c.note(f"{asked} requests, {answered} answered")
        broker.kill()
        broker = c.again(broker)
        time.sleep(1)

    return fuzz_live


def remake(broker):
    """Makes again what was deleted; the topics' ids. What was sent may have made that impossible for a while."""
    client, ids = Client(broker.port, timeout=5), []
    try:
        for topic in ("t", "u"):
            client.try_create(topic, 3)
            ids.append(id_of(client, topic))
    except (OSError, EOFError):
        pass
    finally:
        client.close()
    return [one for one in ids if any(one)]


VARIANTS = {"": fuzz(1, 20)} if not LONG else {str(seed): fuzz(seed, 120) for seed in (1, 2, 3)}
