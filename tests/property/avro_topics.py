"""Random Avro schemas, records of them, their bytes, and what a decoder is to make of them."""

from __future__ import annotations

import itertools
import json
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Context
from decimal import Decimal as Exact
from types import FunctionType
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher

from lakeward.decoding import avro_native, avro_program, avro_values, native
from lakeward.decoding.avro_arrow import arrow_schema
from lakeward.decoding.avro_program import generate, programmable
from lakeward.decoding.avro_reference import AvroReading
from lakeward.decoding.avro_schema import parse
from lakeward.decoding.avro_shape import ReadShape, Shape
from lakeward.decoding.avro_text import TextWriter
from lakeward.decoding.avro_types import (
    Array,
    Decimal,
    Duration,
    Enum,
    Fixed,
    FixedUuid,
    Itself,
    Map,
    Node,
    OneOf,
    Record,
    Scalar,
    Union,
    records,
    walk,
)
from lakeward.decoding.code_cache import CodeCache
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.decoding.registry import Registered
from lakeward.records import Blobs, DecodedPart, Reject

SCHEMA_ID = 7
FRAME = b"\0" + SCHEMA_ID.to_bytes(4, "big")


# --- schemas --------------------------------------------------------------------------------------------------------

LOGICAL = [
    ("int", "date"),
    ("int", "time-millis"),
    ("long", "time-micros"),
    ("long", "timestamp-millis"),
    ("long", "timestamp-micros"),
    ("long", "timestamp-nanos"),
    ("long", "local-timestamp-millis"),
    ("long", "local-timestamp-micros"),
    ("long", "local-timestamp-nanos"),
    ("string", "uuid"),
    ("string", "made-up"),
]
PRIMITIVES = ["boolean", "int", "long", "float", "double", "string", "bytes"]
LEAVES: list[Any] = ["null", *PRIMITIVES, *({"type": base, "logicalType": logical} for base, logical in LOGICAL)]
NAMED = ["fixed", "enum", "fixed decimal", "fixed uuid", "duration"]


@dataclass
class Names:
    """Named types of one schema so far: those that are whole, and the records that are still open."""

    numbers: Any = field(default_factory=itertools.count)
    whole: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    references: int = 0

    def fresh(self, draw: Any) -> tuple[dict[str, Any], str]:
        """How a new type is named, and its full name."""
        name = f"n{next(self.numbers)}"
        namespace = draw(st.sampled_from(["m", "a", "a.b"]))
        return {"name": name, "namespace": namespace}, f"{namespace}.{name}"


@st.composite
def schemas(draw: Any, depth: int, names: Names, *, recursion: bool = True) -> Any:
    """A schema; ``depth`` levels of others inside it at most."""
    kinds = ["leaf", "leaf", "decimal", *NAMED]
    if depth:
        kinds += ["record", "record", "array", "map", "map", "nullable", "nullable", "single", "union", "union"]
        if recursion and names.open:
            kinds += ["itself"]
    if names.whole and names.references < 5:
        kinds += ["again"]
    kind = draw(st.sampled_from(kinds))
    inner = schemas(depth - 1, names, recursion=recursion)
    if kind == "leaf":
        return draw(st.sampled_from(LEAVES))
    if kind == "decimal":
        return {"type": "bytes", "logicalType": "decimal", **draw(digits(38))}
    if kind == "array":
        return {"type": "array", "items": draw(inner)}
    if kind == "map":
        return {"type": "map", "values": draw(inner)}
    if kind == "union":
        return draw(unions(depth - 1, names, recursion=recursion))
    if kind == "itself":
        name = draw(st.sampled_from(names.open))
        return draw(
            st.sampled_from([["null", name], {"type": "array", "items": name}, {"type": "map", "values": name}])
        )
    if kind == "again":
        names.references += 1
        return draw(st.sampled_from(names.whole))
    if kind in {"nullable", "single"}:
        one = draw(inner)
        if isinstance(one, list) or one == "null":
            return one
        return [one] if kind == "single" else draw(st.permutations(["null", one]))
    return draw(named(kind, depth, names, recursion=recursion))


@st.composite
def named(draw: Any, kind: str, depth: int, names: Names, *, recursion: bool) -> Any:
    """A type with a name."""
    told, full = names.fresh(draw)
    if kind == "record":
        names.open.append(full)
        # The namespace of a type inside is always told, so that it is never inherited.
        kinds = draw(st.lists(schemas(depth - 1, names, recursion=recursion), max_size=3))
        names.open.remove(full)
        found = {"type": "record", **told, "fields": members(kinds)}
    elif kind == "fixed":
        found = {"type": "fixed", **told, "size": draw(st.integers(0, 20))}
    elif kind == "enum":
        symbols = st.lists(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), min_size=1, unique=True)
        found = {"type": "enum", **told, "symbols": draw(symbols)}
    elif kind == "fixed decimal":
        size = draw(st.integers(1, 20))
        most = min(38, max(1, int((8 * size - 1) * 0.30103)))
        found = {"type": "fixed", **told, "size": size, "logicalType": "decimal", **draw(digits(most))}
    elif kind == "fixed uuid":
        found = {"type": "fixed", **told, "size": 16, "logicalType": "uuid"}
    else:
        found = {"type": "fixed", **told, "size": 12, "logicalType": "duration"}
    names.whole.append(full)
    return found


@st.composite
def digits(draw: Any, most: int) -> Any:
    precision = draw(st.integers(1, most))
    return {"precision": precision, "scale": draw(st.integers(0, precision))}


@st.composite
def unions(draw: Any, depth: int, names: Names, *, recursion: bool) -> Any:
    """A union of several types, perhaps with null."""
    chosen = draw(st.lists(st.sampled_from([*PRIMITIVES, "array", "map", *NAMED, "record"]), min_size=2, max_size=4))
    branches: list[Any] = []
    for kind in dict.fromkeys(chosen):
        if kind in PRIMITIVES:
            logical = [name for base, name in LOGICAL if base == kind]
            of = draw(st.sampled_from([None, *logical]))
            branches.append(kind if of is None else {"type": kind, "logicalType": of})
        elif kind in {"array", "map"}:
            inner = draw(schemas(max(depth - 1, 0), names, recursion=recursion))
            branches.append({"type": "array", "items": inner} if kind == "array" else {"type": "map", "values": inner})
        else:
            branches.append(draw(named(kind, max(depth, 1), names, recursion=recursion)))
    null = draw(st.integers(-1, len(branches)))
    return branches if null < 0 else [*branches[:null], "null", *branches[null:]]


def members(kinds: list[Any]) -> list[dict[str, Any]]:
    return [{"name": f"f{k}", "type": kind} for k, kind in enumerate(kinds)]


@st.composite
def topics(draw: Any, *, recursion: bool = True) -> Any:
    """A schema as a topic may have it: nearly always a record, its namespace told."""
    names = Names()
    if draw(st.integers(0, 9)) == 9:
        found = draw(schemas(2, names, recursion=recursion))
        assume(found != "null")  # neither these have columns
        assume(not (isinstance(found, dict) and found.get("fields") == []))
        return found
    names.open.append("m.Top")
    kinds = draw(st.lists(schemas(3, names, recursion=recursion), min_size=1, max_size=4))
    return {"type": "record", "name": "Top", "namespace": "m", "fields": members(kinds)}


# --- values, as columns hold them, and their bytes ------------------------------------------------------------------

INT, LONG = 2**31, 2**63
TEXTS = ["", "a", "grün", "株式", "🙂", "abcdefgh", "a longer text than eight", '"\\\n\0']


@dataclass
class Maker:
    """Makes values of one schema; ``levels`` bounds how often a record may hold itself."""

    rng: random.Random
    whole: Mapping[str, Record]
    levels: int = 3

    def number(self, low: int, high: int) -> int:
        """A number in ``[low, high]``, of any length, the edges more often than chance has them."""
        rng = self.rng
        choice = rng.random()
        if choice < 0.1:
            return rng.choice([low, high])
        if choice < 0.4:
            return rng.randint(max(low, -100), min(high, 100)) if low <= 100 and high >= -100 else low
        return min(max(rng.randint(low, high) >> rng.randint(0, 64), low), high)

    def value(self, node: Node) -> Any:
        """A value of ``node``; a record inside itself is as the record around it."""
        rng = self.rng
        match node:
            case Scalar(kind):
                return self.scalar(kind)
            case Fixed(size):
                return rng.randbytes(size)
            case FixedUuid():
                return str(UUID(bytes=rng.randbytes(16)))
            case Duration():
                return {part: self.number(0, 2**32 - 1) for part in ("months", "days", "milliseconds")}
            case Enum(symbols):
                return rng.choice(symbols)
            case Decimal(precision, scale, size):
                most = 10**precision - 1 if size is None else min(10**precision - 1, 2 ** (8 * size - 1) - 1)
                number = self.number(-most, most)
                return Exact((int(number < 0), tuple(map(int, str(abs(number)))), -scale))
            case Array(items):
                return [self.value(items) for _ in range(self.count(items))]
            case Map(values):
                keys = dict.fromkeys(self.text() + rng.choice(["", "x"]) for _ in range(self.count(values)))
                return [(key, self.value(values)) for key in keys]
            case Union(inner, null=null):
                return None if null is not None and (rng.random() < 0.3 or self.full(inner)) else self.value(inner)
            case OneOf(branches):
                branch = rng.choice(branches)
                return None if branch is None else {branch.name: self.value(branch.type)}
            case Record(()):
                return True
            case Record(fields):
                return {f.name: self.value(f.type) for f in fields}
            case Itself(name):
                self.levels -= 1
                found = self.value(self.whole[name])
                self.levels += 1
                return found
        raise TypeError(node)

    def full(self, node: Node) -> bool:
        """Whether no more of ``node`` may be made: records that hold themselves end some time."""
        return self.levels <= 0 and any(isinstance(inner, Itself) for inner in walk(node))

    def count(self, node: Node) -> int:
        most = 1 if self.levels < 3 else 4
        return 0 if self.full(node) else self.rng.randint(0, most if self.rng.random() < 0.9 else 3 * most)

    def text(self) -> str:
        rng = self.rng
        return rng.choice(TEXTS) if rng.random() < 0.7 else "".join(chr(rng.randint(32, 0xD7FF)) for _ in range(5))

    def scalar(self, kind: str) -> Any:
        rng = self.rng
        simple: dict[str, Callable[[], Any]] = {
            "null": lambda: None,
            "boolean": lambda: rng.random() < 0.5,
            "int": lambda: self.number(-INT, INT - 1),
            "date": lambda: self.number(-INT, INT - 1),
            "float": lambda: float(np.float32(rng.choice([rng.gauss(0, 1e9), 0.0, -0.0, 1e-40]))),
            "double": lambda: rng.choice([rng.gauss(0, 1e300), 0.0, -0.0, float("inf"), float("nan"), 5e-324]),
            "string": self.text,
            "bytes": lambda: rng.randbytes(rng.randint(0, 20)),
            "uuid": lambda: str(UUID(bytes=rng.randbytes(16))),
            "time-millis": lambda: self.number(0, 86_399_999) * 1000,
            "time-micros": lambda: self.number(0, 86_399_999_999),
        }
        if kind in simple:
            return simple[kind]()
        if kind.endswith("millis"):
            return self.number(-(LONG // 1000), LONG // 1000) * 1000
        return self.number(-LONG, LONG - 1)


def zigzag(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def counted(content: bytes) -> bytes:
    return zigzag(len(content)) + content


@dataclass
class Writer:
    """Writes values of one schema as Avro; arrays and maps in blocks of any kind."""

    rng: random.Random
    whole: Mapping[str, Record]

    def write(self, node: Node, value: Any) -> bytes:
        match node:
            case Scalar(kind):
                return _scalar(kind, value)
            case Fixed():
                return bytes(value)
            case FixedUuid():
                return UUID(value).bytes
            case Duration():
                return struct.pack("<3I", *value.values())
            case Enum(symbols):
                return zigzag(symbols.index(value))
            case Decimal():
                return self.decimal(node, value)
            case Array(items):
                return self.blocks([self.write(items, item) for item in value])
            case Map(values):
                return self.blocks([counted(key.encode()) + self.write(values, one) for key, one in value])
            case Union(inner, null=null):
                if value is None and null is not None:
                    return zigzag(null)
                return zigzag(1 if null == 0 else 0) + self.write(inner, value)
            case OneOf(branches):
                for number, branch in enumerate(branches):
                    if branch is None and value is None:
                        return zigzag(number)
                    if branch is not None and value is not None and branch.name in value:
                        return zigzag(number) + self.write(branch.type, value[branch.name])
            case Record(fields):
                return b"".join(self.write(f.type, value[f.name]) for f in fields)
            case Itself(name):
                return self.write(self.whole[name], value)
        raise TypeError(node)

    def decimal(self, node: Decimal, value: Exact) -> bytes:
        number = int(value.scaleb(node.scale, Context(prec=60)))
        size = node.size or (number.bit_length() + 8) // 8 + self.rng.choice([0, 0, 1, 9])
        content = number.to_bytes(size, "big", signed=True)
        return content if node.size else counted(content)

    def blocks(self, items: list[bytes]) -> bytes:
        out = b""
        while items:
            count = self.rng.randint(1, len(items))
            content, items = b"".join(items[:count]), items[count:]
            sized = self.rng.random() < 0.3
            out += (zigzag(-count) + zigzag(len(content)) if sized else zigzag(count)) + content
        return out + b"\0"


def _scalar(kind: str, value: Any) -> bytes:
    match kind:
        case "null":
            return b""
        case "boolean":
            return bytes([value])
        case "float":
            return struct.pack("<f", value)
        case "double":
            return struct.pack("<d", value)
        case "string" | "uuid":
            return counted(value.encode())
        case "bytes":
            return counted(value)
        case _:
            return zigzag(value // 1000 if kind.endswith("millis") else value)


def rows_of(record: Record, seed: int, count: int) -> list[tuple[dict[str, Any], bytes]]:
    """Records of a schema, each with its bytes."""
    rng, whole = random.Random(seed), records(record)
    maker, writer = Maker(rng, whole), Writer(rng, whole)
    values = [maker.value(record) for _ in range(count)]
    return [(value, writer.write(record, value)) for value in values]


# --- running a decoder, and what it is to return --------------------------------------------------------------------


def interpreted(source: str) -> Any:
    """The program and its primitives as plain Python: the same text, with numpy checking every index."""
    defined: dict[str, Any] = {}
    exec(compile(source, "<program>", "exec"), defined)
    plain = {**vars(native), **vars(avro_native), **vars(avro_values), **defined}
    for name, value in list(plain.items()):
        if isinstance(value, Dispatcher):
            plain[name] = FunctionType(value.py_func.__code__, plain, name)
    decode = FunctionType(defined["decode"].__code__, plain)

    def run(*arguments: Any) -> None:
        with np.errstate(over="ignore"):  # the multiplications that count and hash bytes wrap on purpose
            decode(*arguments)

    return run


def interpreted_shape(record: Record, wide: int) -> Shape | ReadShape:
    """The shape of a schema without compiling; ``wide``: from how many fields on a record is read by functions."""
    if not programmable(record):
        return ReadShape.of(record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avro_program, "WIDE", wide)
        program = generate(record)
    return Shape(program, arrow_schema(record), interpreted(program.source))


def compiled_shape(record: Record) -> Shape | ReadShape:
    """The shape of a schema, as it is in use."""
    return Shape.of(record, CodeCache(None)) if programmable(record) else ReadShape.of(record)


@dataclass
class Ran:
    rows: dict[int, Any]
    rejects: dict[int, Reject]
    others: list[int]


def run(shape: Shape | ReadShape, payloads: list[bytes]) -> Ran:
    parts: list[DecodedPart] = []
    rejects: list[Reject] = []
    others = shape.decode(Blobs.of([FRAME + p for p in payloads]), None, SCHEMA_ID, parts, rejects)
    rows: dict[int, Any] = {}
    for part in parts:
        part.rows.validate(full=True)
        batch = part.rows.combine_chunks()
        columns = [plain(batch.column(k).combine_chunks()) for k in range(batch.num_columns)]
        assert list(part.index) == sorted(part.index)
        for row, message in enumerate(part.index):
            rows[int(message)] = {name: c[row] for name, c in zip(batch.column_names, columns, strict=True)}
    return Ran(rows, {r.index: r for r in rejects}, list(others))


def plain(array: Any) -> list[Any]:
    """The values as integers, bytes, strings, lists and dicts, so that nothing is lost on the way to Python."""
    if pa.types.is_struct(array.type):
        columns = {array.type.field(k).name: plain(array.field(k)) for k in range(array.type.num_fields)}
        return [{n: c[i] for n, c in columns.items()} if ok else None for i, ok in enumerate(valid(array))]
    if pa.types.is_map(array.type):
        pairs = list(zip(plain(array.keys), plain(array.items), strict=True))
        offsets = array.offsets.to_pylist()
        return [pairs[offsets[i] : offsets[i + 1]] if ok else None for i, ok in enumerate(valid(array))]
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        items, offsets = plain(array.values), array.offsets.to_pylist()
        return [items[offsets[i] : offsets[i + 1]] if ok else None for i, ok in enumerate(valid(array))]
    if pa.types.is_timestamp(array.type) or pa.types.is_time64(array.type):
        return array.view(pa.int64()).to_pylist()
    if pa.types.is_date32(array.type):
        return array.view(pa.int32()).to_pylist()
    if pa.types.is_float32(array.type):
        return [None if v is None else struct.pack("<f", v) for v in array.to_pylist()]
    if pa.types.is_float64(array.type):
        return [None if v is None else struct.pack("<d", v) for v in array.to_pylist()]
    return array.to_pylist()


def valid(array: Any) -> list[bool]:
    return array.is_valid().to_pylist()


@dataclass
class Expecting:
    """What `plain` is to give for values as columns hold them."""

    whole: Mapping[str, Record]

    def of(self, node: Node, value: Any) -> Any:
        match node:
            case Union(inner):
                return None if value is None else self.of(inner, value)
            case OneOf(branches):
                if value is None:
                    return None
                there = [branch for branch in branches if branch is not None]
                return {b.name: self.of(b.type, value[b.name]) if b.name in value else None for b in there}
            case Record(()):
                return value
            case Record(fields):
                return {f.name: self.of(f.type, value[f.name]) for f in fields}
            case Array(items):
                return [self.of(items, item) for item in value]
            case Map(values):
                return [(key, self.of(values, one)) for key, one in value]
            case Itself():
                return value if isinstance(value, str) else TextWriter(self.whole).text(node, value)
            case Scalar("float"):
                return struct.pack("<f", value)
            case Scalar("double"):
                return struct.pack("<d", value)
            case _:
                return value


def expected(record: Record, value: Mapping[str, Any]) -> Any:
    return Expecting(records(record)).of(record, value)


def told(schema: Any) -> tuple[Registered, Record]:
    registered = Registered("AVRO", json.dumps(schema))
    return registered, parse(registered.text, "test")


def by_reference(reading: AvroReading, record: Record, message: bytes) -> Any:
    """What the reference makes of a message, or the code and reason of its reject."""
    try:
        values = reading(FRAME + message)
    except NotDecodableError as error:
        return error.code, error.reason
    named = dict(zip((member.name for member in record.fields), values, strict=True))
    return expected(record, named)


def damaged(rng: random.Random, payload: bytes) -> bytes:
    """The payload with some bits flipped, cut short, or with bytes put in."""
    data = bytearray(payload)
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice(["flip", "flip", "cut", "insert", "overwrite"]) if data else "insert"
        if kind == "insert":
            at = rng.randint(0, len(data))
            data[at:at] = rng.choice([rng.randbytes(rng.randint(1, 12)), b"\xff" * 10, b"\x80" * 9 + b"\x01"])
            continue
        at = rng.randrange(len(data))
        if kind == "cut":
            del data[at:]
        elif kind == "flip":
            data[at] ^= 1 << rng.randint(0, 7)
        else:
            data[at] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF])
    return bytes(data)
