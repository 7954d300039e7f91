"""A client of few words: one connection, requests by name or as bytes, record batches by hand."""

import socket
import struct
import time

import schema

APIS = schema.load()

# Kafka's names of the error codes that cases look for.
NONE = 0
MESSAGE_TOO_LARGE = 10
COORDINATOR_ERRORS = (14, 15, 16)
KAFKA_STORAGE_ERROR = 56


def _table():
    for first in range(256):
        for _ in range(8):
            first = (first >> 1) ^ (0x82F63B78 if first & 1 else 0)
        yield first


TABLE = tuple(_table())


def crc32c(data):
    crc, table = 0xFFFFFFFF, TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def zigzag(number):
    return schema.varint(((number << 1) ^ (number >> 63)) & (2**64 - 1))


def record(value, offset_delta=0, key=None):
    """One record, as it stands in a batch."""
    parts = [zigzag(-1) if part is None else zigzag(len(part)) + part for part in (key, value)]
    body = b"\0" + zigzag(0) + zigzag(offset_delta) + b"".join(parts) + zigzag(0)
    return zigzag(len(body)) + body


def batch(records, producer_id=-1, epoch=-1, sequence=-1, attributes=0, count=None, last=None, timestamp=None):
    """A batch of records, each bytes of `record`. `count` and `last` may lie, and are told for a compressed body."""
    body = records if isinstance(records, bytes) else b"".join(records)
    count = len(records) if count is None else count
    last = count - 1 if last is None else last
    now = int(time.time() * 1000) if timestamp is None else timestamp
    head = struct.pack(">hiqqqhii", attributes, last, now, now, producer_id, epoch, sequence, count)
    rest = struct.pack(">i", 0) + b"\x02" + struct.pack(">I", crc32c(head + body)) + head + body
    return struct.pack(">qi", 0, len(rest)) + rest


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack(">h", len(value)) + value


PRODUCE = ("Produce", 7)
FETCH = ("Fetch", 4)


def produce(topic, parts, timeout_ms=30000):
    """The body of PRODUCE: parts are (partition, batch)."""
    head = struct.pack(">hhii", -1, -1, timeout_ms, 1) + text(topic) + struct.pack(">i", len(parts))
    return head + b"".join(struct.pack(">ii", partition, len(data)) + data for partition, data in parts)


def fetch(topic, parts, wait_ms=500, min_bytes=1, max_bytes=50 << 20, partition_max_bytes=1 << 20):
    """The body of FETCH: parts are (partition, offset)."""
    head = struct.pack(">iiiibi", -1, wait_ms, min_bytes, max_bytes, 0, 1) + text(topic) + struct.pack(">i", len(parts))
    return head + b"".join(struct.pack(">iqi", partition, offset, partition_max_bytes) for partition, offset in parts)


class Client:
    def __init__(self, port, timeout=30, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", port))
        self.correlation = 0

    def frame(self, name, version, body):
        """A whole request; `body` is bytes or a dict."""
        api = APIS[name]
        if isinstance(body, dict):
            body = schema.Writer(api, version, api.request).struct("", body)
        self.correlation += 1
        head = struct.pack(">hhi", api.key, version, self.correlation) + text("faults")
        head += b"\0" if version >= api.flexible else b""
        return struct.pack(">i", len(head) + len(body)) + head + body

    def send(self, name, version, body):
        self.socket.sendall(self.frame(name, version, body))

    def receive(self):
        """The next answer as bytes, its correlation id in front."""
        return self.exactly(struct.unpack(">i", self.exactly(4))[0])

    def exactly(self, count):
        parts = []
        while count:
            part = self.socket.recv(min(count, 1 << 20))
            if not part:
                raise EOFError("the broker closed the connection")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def ask(self, name, version, body):
        """A request and its answer as a dict."""
        self.send(name, version, body)
        return self.answer(name, version)

    def answer(self, name, version):
        return read(name, version, self.receive())

    def close(self):
        self.socket.close()

    def produce(self, topic, parts):
        """The error code of each part."""
        answer = self.ask(*PRODUCE, produce(topic, parts))
        return [part["ErrorCode"] for part in answer["Responses"][0]["PartitionResponses"]]

    def fetch(self, topic, parts, **bounds):
        """The answer of each part."""
        return self.ask(*FETCH, fetch(topic, parts, **bounds))["Responses"][0]["Partitions"]

    def try_create(self, topic, partitions, configs=None, validate_only=False):
        """The error code of CreateTopics."""
        configs = [{"Name": name, "Value": value} for name, value in (configs or {}).items()]
        one = {"Name": topic, "NumPartitions": partitions, "ReplicationFactor": 1, "Configs": configs}
        answer = self.ask("CreateTopics", 7, {"Topics": [one], "timeoutMs": 30000, "validateOnly": validate_only})
        return answer["Topics"][0]["ErrorCode"]

    def create(self, topic, partitions, configs=None):
        code = self.try_create(topic, partitions, configs)
        assert code == NONE, f"CreateTopics of {topic}: error {code}"

    def delete(self, topic):
        """The error code of DeleteTopics."""
        answer = self.ask("DeleteTopics", 4, {"TopicNames": [topic], "TimeoutMs": 60000})
        return answer["Responses"][0]["ErrorCode"]

    def find_coordinator(self, group, patience=15):
        """Waits until the group has its coordinator: the topic of offsets is made at the first question."""
        end = time.monotonic() + patience
        while True:
            code = self.ask("FindCoordinator", 0, {"Key": group})["ErrorCode"]
            if code == NONE:
                code = self.ask("OffsetFetch", 2, {"GroupId": group, "Topics": []})["ErrorCode"]
            if code == NONE:
                return
            assert time.monotonic() < end, f"group {group} has no coordinator: error {code}"
            time.sleep(0.02)


def read(name, version, data):
    """An answer as a dict."""
    api = APIS[name]
    at = 4 + (version >= api.flexible and name != "ApiVersions")
    return schema.Reader(api, version, api.response, data, at).struct("")
