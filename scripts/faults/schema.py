"""Kafka's messages by the project's own schema (engine/src/protocol/schema/api.schema, which says how it is written).

A message is a dict of its fields. A field that a dict leaves out has the schema's default, so that a case names only
what it is about. An array may be a `Repeat`: its element is written once, however often it stands there.
"""

import pathlib
import struct

SCHEMA = pathlib.Path(__file__).resolve().parents[2] / "engine/src/protocol/schema/api.schema"
NUMBERS = {"bool": ">?", "int8": ">b", "int16": ">h", "uint16": ">H", "int32": ">i", "int64": ">q", "float64": ">d"}
LAST = 32767


class Repeat:
    """An array of `count` equal elements."""

    def __init__(self, element, count):
        self.element, self.count = element, count


class Field:
    def __init__(self, words, outer):
        self.name, self.type, *rest = words
        self.versions, self.nullable, self.default, self.tag = outer, None, None, None
        for word in rest:
            if word == "nullable":
                self.nullable = self.versions
            elif word.startswith("nullable="):
                self.nullable = versions_of(word[9:], self.versions)
            elif word.startswith("default="):
                self.default = word[8:]
            elif word.startswith("tag="):
                self.tag = int(word[4:])
            else:
                self.versions = versions_of(word, outer)
        self.element = self.type.removeprefix("[]")

    def may_be_null(self, version):
        return self.nullable is not None and self.nullable[0] <= version <= self.nullable[1]

    def absent(self, version):
        """What stands there if a message does not say."""
        if self.default == "null" or (self.type == "records" and self.may_be_null(version)):
            return None
        if self.type.startswith("[]"):
            return []
        if self.type in NUMBERS:
            text = self.default or "0"
            return text == "true" if self.type == "bool" else float(text) if self.type == "float64" else int(text, 0)
        return {"string": b"", "bytes": b"", "records": b"", "uuid": bytes(16)}.get(self.type, {})


class Api:
    def __init__(self, words):
        self.key, self.name = int(words[1]), words[2]
        self.versions = versions_of(words[3], (0, LAST))
        flexible = words.index("flexible") if "flexible" in words else None
        self.flexible = versions_of(words[flexible + 1], self.versions)[0] if flexible else LAST
        # Of each message: its structs by name; "" is the message itself.
        self.request, self.response = {"": []}, {"": []}


def versions_of(word, outer):
    low, dash, high = word.partition("-")
    return (int(low) if low else outer[0], (int(high) if high else outer[1]) if dash else int(low))


def load():
    """All APIs, by name."""
    apis, message, enclosing = {}, None, []
    for line in SCHEMA.read_text().splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        if depth == 0:
            if words[0] == "api":
                api = apis[words[2]] = Api(words)
            else:
                message, enclosing = getattr(api, words[0]), [("", api.versions)]
            continue
        del enclosing[depth:]
        parent, outer = enclosing[-1]
        if words[0] == "struct":
            enclosing.append((words[1], api.versions))
            message.setdefault(words[1], [])
            continue
        field = Field(words, outer)
        message[parent].append(field)
        if field.element[0].isupper():
            message.setdefault(field.element, [])
            enclosing.append((field.element, field.versions))
    return apis


def compose(api, version, choose):
    """A request as `choose` will have it: `tagged` says whether a tagged field is there, `array` gives an array, with
    `make` for each element, and `leaf` anything else. Each is told the field and its path."""

    def of(structs, name, path):
        values = {}
        for field in structs[name]:
            here = field.versions[0] <= version <= field.versions[1]
            if here and (field.tag is None or choose.tagged(field)):
                values[field.name] = value(structs, field, f"{path}.{field.name}")
        return values

    def value(structs, field, path):
        nullable = field.may_be_null(version)
        if field.type.startswith("[]"):
            return choose.array(path, nullable, lambda: single(structs, field, path, False))
        return single(structs, field, path, nullable)

    def single(structs, field, path, nullable):
        if field.element[0].isupper():
            return None if nullable and choose.leaf(path, "struct", True) is None else of(structs, field.element, path)
        return choose.leaf(path, field.element, nullable)

    return of(api.request, "", api.name)


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


class Writer:
    def __init__(self, api, version, structs):
        self.version, self.flexible, self.structs = version, version >= api.flexible, structs

    def struct(self, name, values):
        out, tagged = [], []
        for field in self.structs[name]:
            if not field.versions[0] <= self.version <= field.versions[1]:
                continue
            if field.tag is None:
                out.append(self.value(field, values.get(field.name, field.absent(self.version))))
            elif self.flexible and field.name in values:
                tagged.append((field.tag, self.value(field, values[field.name])))
        if self.flexible:
            out.append(varint(len(tagged)))
            out += [varint(tag) + varint(len(value)) + value for tag, value in sorted(tagged)]
        return b"".join(out)

    def length(self, count, narrow):
        """Before a string, an array and the like; None stands for null."""
        if self.flexible:
            return varint(0 if count is None else count + 1)
        return struct.pack(narrow, -1 if count is None else count)

    def value(self, field, value):
        if not field.type.startswith("[]"):
            return self.single(field, value)
        if value is None:
            return self.length(None, ">i")
        if isinstance(value, Repeat):
            return self.length(value.count, ">i") + self.single(field, value.element, True) * value.count
        return self.length(len(value), ">i") + b"".join(self.single(field, one, True) for one in value)

    def single(self, field, value, in_array=False):
        kind = field.element
        if kind in NUMBERS:
            return struct.pack(NUMBERS[kind], value)
        if kind == "uuid":
            return value
        if kind in ("string", "bytes", "records"):
            narrow = ">h" if kind == "string" else ">i"
            value = value.encode() if isinstance(value, str) else value
            return self.length(None, narrow) if value is None else self.length(len(value), narrow) + value
        if field.may_be_null(self.version) and not in_array:
            return b"\xff" if value is None else b"\x01" + self.struct(kind, value)
        return self.struct(kind, value)


class Reader:
    def __init__(self, api, version, structs, data, at=0):
        self.version, self.flexible, self.structs = version, version >= api.flexible, structs
        self.data, self.at = data, at

    def number(self, layout):
        value = struct.unpack_from(layout, self.data, self.at)[0]
        self.at += struct.calcsize(layout)
        return value

    def bytes(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self):
        number = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    def length(self, narrow):
        return self.varint() - 1 if self.flexible else self.number(narrow)

    def struct(self, name):
        fields = [f for f in self.structs[name] if f.versions[0] <= self.version <= f.versions[1]]
        values = {f.name: self.value(f) for f in fields if f.tag is None}
        if self.flexible:
            by_tag = {f.tag: f for f in fields if f.tag is not None}
            for _ in range(self.varint()):
                tag, end = self.varint(), self.varint() + self.at
                if tag in by_tag:
                    values[by_tag[tag].name] = self.value(by_tag[tag])
                self.at = end
        return values

    def value(self, field):
        if not field.type.startswith("[]"):
            return self.single(field)
        count = self.length(">i")
        return None if count < 0 else [self.single(field, True) for _ in range(count)]

    def single(self, field, in_array=False):
        kind = field.element
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == "uuid":
            return self.bytes(16)
        if kind in ("string", "bytes", "records"):
            count = self.length(">h" if kind == "string" else ">i")
            value = None if count < 0 else self.bytes(count)
            return value.decode() if kind == "string" and value is not None else value
        if field.may_be_null(self.version) and not in_array and self.number(">b") < 0:
            return None
        return self.struct(kind)
