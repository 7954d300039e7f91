"""One request of each API for each of its arrays, with very many elements there: does anybody else wait?

equal     60 000 times the same element
distinct  60 000 elements that differ, of the last version only
"""

import time

import schema
from wire import APIS, Client, batch, record

SLOWEST = 3


class Choose:
    """Values that get past the first checks; the array at `big` is long."""

    def __init__(self, topic_id, count, distinct):
        self.topic_id, self.count, self.distinct = topic_id, count, distinct
        self.big, self.seen, self.number = None, [], 0

    def tagged(self, field):
        return False

    def array(self, path, nullable, make):
        self.seen.append(path)
        if path != self.big:
            return [make()]
        if not self.distinct:
            return schema.Repeat(make(), self.count)
        elements = []
        for self.number in range(self.count):
            elements.append(make())
        self.number = 0
        return elements

    def leaf(self, path, kind, nullable):
        name = path.rsplit(".", 1)[1].lower()
        if kind == "string":
            return self.string(path, name, nullable)
        if kind == "records":
            return batch([record(b"x")])
        if kind == "uuid":
            return self.number.to_bytes(16, "big") if self.number else self.topic_id
        return {"bytes": b"", "struct": {}, "float64": 1.0}.get(
            kind, self.integer(name) if kind.startswith(("int", "uint", "bool")) else b""
        )

    def integer(self, name):
        if name in ("maxwaitms", "sessionepoch", "isolationlevel", "acks", "keytype"):
            return 0
        if name in ("minbytes", "numpartitions"):
            return 1
        if name in ("maxbytes", "partitionmaxbytes"):
            return 1 << 20
        if "timeout" in name:
            return 10_000
        if name == "resourcetype":
            return 2
        if name in ("partition", "partitionindex", "index", "partitionindexes", "partitions", "partitionid"):
            return self.number
        if name.endswith("epoch") or name.startswith("generationid") or name in ("replicaid", "replicationfactor"):
            return -1
        return 0

    def string(self, path, name, nullable):
        suffix = str(self.number) if self.number else ""
        if "topic" in name or (name == "name" and "topic" in path.lower()):
            return "t" + suffix
        if "group" in name or name == "key" or "coordinatorkeys" in name:
            return "g" + suffix
        if "member" in name or "instance" in name:
            return None if nullable else suffix
        return "x" + suffix


def served(client):
    return {
        entry["ApiKey"]: (entry["MinVersion"], entry["MaxVersion"])
        for entry in client.ask("ApiVersions", 0, {})["ApiKeys"]
    }


def id_of(client, topic):
    return client.ask("Metadata", 12, {"Topics": [{"TopicId": bytes(16), "Name": topic}]})["Topics"][0]["TopicId"]


def arrays(count, distinct):
    def big_arrays(c):
        broker = c.start()
        client = c.client(broker)
        client.create("t", 8)
        choose = Choose(id_of(client, "t"), count, distinct)
        waits = []
        with c.others(broker, topics=True) as others:
            for api, version, path in every_array(served(client), choose, distinct):
                choose.big = path
                body = schema.Writer(api, version, api.request).struct("", schema.compose(api, version, choose))
                others.reset()
                how = once(broker, api, version, body)
                time.sleep(0.05)
                worst = others.worst()
                # A core that is still busy with it is waited for.
                while others.waiting() > 0.3 and worst < 30:
                    time.sleep(0.1)
                    worst = max(worst, others.worst())
                waits.append((worst, f"{api.name} v{version} {path.partition('.')[2]} {len(body) / 1e6:.1f} MB, {how}"))
                if broker.ended():
                    c.check("no request ends the broker", False, waits[-1][1])
                    return
            waits.sort(reverse=True)
            slow = [what for worst, what in waits if worst > 1]
            c.note(f"{len(waits)} arrays of {count}")
            c.note("others at worst " + ", ".join(f"{worst * 1e3:.0f} ms ({what})" for worst, what in waits[:SLOWEST]))
            c.check("no small request of others waits over 1 s", not slow, otherwise=f"{len(slow)} arrays", timing=True)
            others.served()

    return big_arrays


def every_array(served_versions, choose, last_only):
    for api in APIS.values():
        for version in sorted(set(served_versions.get(api.key, ())))[-1 if last_only else 0 :]:
            choose.big, choose.seen = None, []
            schema.compose(api, version, choose)
            yield from [(api, version, path) for path in dict.fromkeys(choose.seen)]


def once(broker, api, version, body):
    client = Client(broker.port, timeout=10)
    began = time.monotonic()
    try:
        client.send(api.name, version, body)
        client.receive()
        return f"answered in {time.monotonic() - began:.2f} s"
    except (EOFError, ConnectionError):
        return "closed"
    except TimeoutError:
        return "no answer"
    finally:
        client.close()


VARIANTS = {"equal": arrays(60_000, False), "distinct": arrays(60_000, True)}
