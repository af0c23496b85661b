from __future__ import annotations

import copy
import io
import itertools
import json
import struct
from dataclasses import dataclass
from decimal import Decimal as Exact
from functools import cache
from types import FunctionType
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher

from lakeward.decoding import avro_native, avro_program, avro_values, native
from lakeward.decoding.avro_arrow import arrow_schema
from lakeward.decoding.avro_program import generate
from lakeward.decoding.avro_schema import parse
from lakeward.decoding.avro_shape import Shape
from lakeward.decoding.avro_types import Array, Decimal, Node, Record, Scalar, Union, smallest
from lakeward.decoding.code_cache import CodeCache
from lakeward.records import Blobs, DecodedPart, Reject

SCHEMA_ID = 7
FRAME = b"\0" + SCHEMA_ID.to_bytes(4, "big")
QUICK = settings(
    max_examples=80,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

STRICTER = {
    "int-overflow",
    "decimal-overflow",
    "timestamp-overflow",
    "time-out-of-range",
    "invalid-boolean",
    "invalid-uuid",
    "negative-length",
    "varint-too-long",
    "too-many-items",
    "invalid-enum-index",
    "invalid-union-index",
    "trailing-bytes",
}
"""What we refuse although fastavro may read something: it lets these pass, wraps, or takes a negative index."""


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
        with np.errstate(over="ignore"):  # the multiplication that counts bytes wraps on purpose
            decode(*arguments)

    return run


@dataclass
class Ran:
    rows: dict[int, Any]
    rejects: dict[int, Reject]
    others: list[int]


def run(shape: Shape, payloads: list[bytes]) -> Ran:
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
    if pa.types.is_list(array.type):
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


def expected(node: Node, value: Any) -> Any:
    """What a value that fastavro has read without logical types is as a column."""
    match node:
        case Union(inner):
            return None if value is None else expected(inner, value)
        case Record(fields):
            return {f.name: expected(f.type, value[f.name]) for f in fields}
        case Array(items):
            return [expected(items, item) for item in value]
        case Decimal(scale=scale):
            number = Exact(int.from_bytes(value, "big", signed=True)).as_tuple()
            return Exact((number.sign, number.digits, -scale))  # scaleb would round to 28 digits
        case Scalar("time-millis" | "timestamp-millis" | "local-timestamp-millis"):
            return value * 1000
        case Scalar("float"):
            return struct.pack("<f", value)
        case Scalar("double"):
            return struct.pack("<d", value)
        case _:
            return value


def bare(schema: Any) -> Any:
    """The schema without logical types."""
    if isinstance(schema, dict):
        return {k: bare(v) for k, v in schema.items() if k not in {"logicalType", "precision", "scale"}}
    return [bare(s) for s in schema] if isinstance(schema, list) else schema


def read(schema: Any, node: Record, payload: bytes) -> tuple[Any, int] | None:
    """What fastavro makes of a payload and how many bytes it took; None where it gives up."""
    stream = io.BytesIO(payload)
    try:
        value = fastavro.schemaless_reader(stream, schema)
    except Exception:  # noqa: BLE001  whatever it gives up with
        return None
    return expected(node, value), stream.tell()


def sizeless(node: Node) -> bool:
    """Whether ``node`` holds an array whose items take no bytes; fastavro would build billions of them."""
    match node:
        case Array(items):
            return smallest(items) == 0 or sizeless(items)
        case Union(inner):
            return sizeless(inner)
        case Record(fields):
            return any(sizeless(f.type) for f in fields)
        case _:
            return False


# --- schemas and records -------------------------------------------------------------------------------------------

LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    ("null", st.none()),
    ("boolean", st.booleans()),
    ("int", st.integers(-(2**31), 2**31 - 1)),
    ("long", st.integers(-(2**63), 2**63 - 1)),
    ("float", st.floats(width=32, allow_nan=False)),
    ("double", st.floats()),
    ("string", st.text(max_size=20)),
    ("bytes", st.binary(max_size=20)),
    ({"type": "int", "logicalType": "date"}, st.integers(-(2**31), 2**31 - 1)),
    ({"type": "int", "logicalType": "time-millis"}, st.integers(0, 86_399_999)),
    ({"type": "long", "logicalType": "time-micros"}, st.integers(0, 86_399_999_999)),
    ({"type": "long", "logicalType": "timestamp-millis"}, st.integers(-(2**63) // 1000 + 1, 2**63 // 1000)),
    ({"type": "long", "logicalType": "timestamp-micros"}, st.integers(-(2**63), 2**63 - 1)),
    ({"type": "long", "logicalType": "timestamp-nanos"}, st.integers(-(2**63), 2**63 - 1)),
    ({"type": "long", "logicalType": "local-timestamp-millis"}, st.integers(-(10**15), 10**15)),
    ({"type": "long", "logicalType": "local-timestamp-micros"}, st.integers(-(2**63), 2**63 - 1)),
    ({"type": "string", "logicalType": "uuid"}, st.uuids().map(str)),
    ({"type": "string", "logicalType": "made-up"}, st.text(max_size=5)),
]


def in_bytes(number: int, least: int = 0) -> bytes:
    size = max(least, (number.bit_length() + 8) // 8)
    return number.to_bytes(size, "big", signed=True)


@st.composite
def schemas(draw: Any, depth: int, names: Any) -> tuple[Any, st.SearchStrategy[Any]]:
    """A schema and the values, without logical types, that fit it."""
    kinds = ["leaf", "leaf", "fixed", "enum", "decimal", "fixed decimal"]
    if depth:
        kinds += ["record", "array", "nullable", "nullable", "single"]
    kind = draw(st.sampled_from(kinds))
    name = f"n{next(names)}"
    if kind == "leaf":
        return copy.deepcopy(draw(st.sampled_from(LEAVES)))
    if kind == "fixed":
        size = draw(st.integers(0, 20))
        return {"type": "fixed", "name": name, "size": size}, st.binary(min_size=size, max_size=size)
    if kind == "enum":
        symbols = draw(st.lists(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), min_size=1, unique=True))
        return {"type": "enum", "name": name, "symbols": symbols}, st.sampled_from(symbols)
    if kind == "decimal":
        precision = draw(st.integers(1, 38))
        scale = draw(st.integers(0, precision))
        numbers = st.integers(-(10**precision) + 1, 10**precision - 1)
        schema = {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}
        return schema, st.builds(in_bytes, numbers, st.integers(0, 20))
    if kind == "fixed decimal":
        size = draw(st.integers(1, 20))
        precision = draw(st.integers(1, min(38, max(1, int((8 * size - 1) * 0.30103)))))
        numbers = st.integers(-(10**precision) + 1, 10**precision - 1)
        fitting = numbers.filter(lambda n: len(in_bytes(n)) <= size).map(lambda n: in_bytes(n, size))
        schema = {"type": "fixed", "name": name, "size": size, "logicalType": "decimal", "precision": precision}
        return schema, fitting
    if kind == "record":
        fields = draw(st.lists(schemas(depth - 1, names), min_size=1, max_size=3))
        return record(name, [f for f, _ in fields]), st.fixed_dictionaries(
            {f"f{k}": v for k, (_, v) in enumerate(fields)}
        )
    inner, values = draw(schemas(depth - 1, names))
    if kind == "array":
        return {"type": "array", "items": inner}, st.lists(values, max_size=4)
    if isinstance(inner, list) or (kind == "nullable" and inner == "null"):
        return inner, values
    if kind == "single":
        return [inner], values
    union = ["null", inner] if draw(st.booleans()) else [inner, "null"]
    return union, st.none() | values


WIDTHS = st.sampled_from([0, 1, 24])
"""From how many fields on a record is read by functions, one a shape of field."""


def record(name: str, types: list[Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f"f{k}", "type": t} for k, t in enumerate(types)]}


@st.composite
def topics(draw: Any) -> tuple[dict[str, Any], list[Any]]:
    """A schema and some records, as they are written."""
    names = itertools.count()
    fields = draw(st.lists(schemas(3, names), min_size=1, max_size=4))
    rows = st.fixed_dictionaries({f"f{k}": values for k, (_, values) in enumerate(fields)})
    return record("Top", [f for f, _ in fields]), draw(st.lists(rows, min_size=1, max_size=4))


def write(schema: Any, row: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, row)
    return stream.getvalue()


FIXED_SET = record(
    "Top",
    [
        "string",
        ["null", "long"],
        {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 6},
        [{"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}, "null"],
        {"type": "fixed", "name": "F9", "size": 9, "logicalType": "decimal", "precision": 18},
        {"type": "array", "items": ["null", record("Leg", ["string", {"type": "array", "items": "int"}, "double"])]},
        ["null", record("Party", ["boolean", ["null", {"type": "enum", "name": "E", "symbols": ["A", "B"]}], "float"])],
        {"type": "array", "items": {"type": "array", "items": "string"}},
        {"type": "array", "items": "null"},
        {"type": "long", "logicalType": "timestamp-millis"},
        {"type": "string", "logicalType": "uuid"},
        {"type": "fixed", "name": "F3", "size": 3},
        {"type": "int", "logicalType": "time-millis"},
        ["bytes"],
        "int",
    ],
)
"""A schema with everything in it, for the compiled program; it is compiled once."""

PIECES: dict[str, st.SearchStrategy[Any]] = {
    "f0": st.text(max_size=30),
    "f1": st.none() | st.integers(-(2**63), 2**63 - 1),
    "f2": st.builds(in_bytes, st.integers(-(10**18) + 1, 10**18 - 1), st.integers(0, 20)),
    "f3": st.none() | st.builds(in_bytes, st.integers(-(10**38) + 1, 10**38 - 1), st.integers(0, 20)),
    "f4": st.integers(-(10**18) + 1, 10**18 - 1).map(lambda n: in_bytes(n, 9)),
    "f5": st.lists(
        st.none()
        | st.fixed_dictionaries(
            {"f0": st.text(max_size=9), "f1": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3), "f2": st.floats()}
        ),
        max_size=3,
    ),
    "f6": st.none()
    | st.fixed_dictionaries(
        {"f0": st.booleans(), "f1": st.sampled_from([None, "A", "B"]), "f2": st.floats(width=32, allow_nan=False)}
    ),
    "f7": st.lists(st.lists(st.text(max_size=12), max_size=3), max_size=3),
    "f8": st.lists(st.none(), max_size=5),
    "f9": st.integers(-(10**15), 10**15),
    "f10": st.uuids().map(str),
    "f11": st.binary(min_size=3, max_size=3),
    "f12": st.integers(0, 86_399_999),
    "f13": st.binary(max_size=30),
    "f14": st.integers(-(2**31), 2**31 - 1),
}


@cache
def compiled_shape() -> Shape:
    return Shape.of(parse(json.dumps(FIXED_SET), "test"), CodeCache(None))


def interpreted_shape(schema: Any, wide: int) -> Shape:
    node = parse(json.dumps(schema), "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avro_program, "WIDE", wide)
        program = generate(node)
    return Shape(program, arrow_schema(node), interpreted(program.source))


# --- properties ----------------------------------------------------------------------------------------------------


@QUICK
@given(topics(), WIDTHS)
def test_any_schema_and_any_records_read_as_fastavro_reads_them(
    topic: tuple[dict[str, Any], list[Any]], wide: int
) -> None:
    schema, rows = topic
    node, plainly = parse(json.dumps(schema), "test"), fastavro.parse_schema(bare(schema))
    got = run(interpreted_shape(schema, wide), [write(plainly, row) for row in rows])
    assert got.rejects == {}
    assert got.others == []
    assert got.rows == {i: expected(node, row) for i, row in enumerate(rows)}


@QUICK
@given(st.lists(st.fixed_dictionaries(PIECES), min_size=1, max_size=6))
def test_the_compiled_program_reads_what_fastavro_reads(rows: list[Any]) -> None:
    node, plainly = parse(json.dumps(FIXED_SET), "test"), fastavro.parse_schema(bare(FIXED_SET))
    got = run(compiled_shape(), [write(plainly, row) for row in rows])
    assert got.rejects == {}
    assert got.rows == {i: expected(node, row) for i, row in enumerate(rows)}


@st.composite
def damage(draw: Any, payload: bytes) -> bytes:
    """The payload with some bits flipped, cut short, or with bytes put in."""
    data = bytearray(payload)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["flip", "flip", "cut", "insert", "overwrite"]))
        if not data:
            kind = "insert"
        if kind == "insert":
            at = draw(st.integers(0, len(data)))
            data[at:at] = draw(st.binary(min_size=1, max_size=12) | st.just(b"\xff" * 10))
        else:
            at = draw(st.integers(0, len(data) - 1))
            if kind == "cut":
                del data[at:]
            elif kind == "flip":
                data[at] ^= 1 << draw(st.integers(0, 7))
            else:
                data[at] = draw(st.integers(0, 255))
    return bytes(data)


def check_damaged(shape: Shape, schema: Any, node: Record, good: list[bytes], bad: list[bytes]) -> None:
    plainly = fastavro.parse_schema(bare(schema))
    messages = [m for pair in itertools.zip_longest(good, bad, fillvalue=good[0]) for m in pair]
    got = run(shape, messages)
    assert got.others == []
    assert sorted([*got.rows, *got.rejects]) == list(range(len(messages)))
    for i, message in enumerate(messages):
        if i in got.rows:
            assert read(plainly, node, message) == (got.rows[i], len(message))
        elif not sizeless(node):
            answer = read(plainly, node, message)
            if answer is not None and answer[1] == len(message):
                assert got.rejects[i].code in STRICTER
    for i in range(0, len(messages), 2):
        assert i in got.rows, got.rejects.get(i)


@QUICK
@given(topics(), WIDTHS, st.data())
def test_damage_never_passes_for_something_else_nor_harms_the_neighbours(
    topic: tuple[dict[str, Any], list[Any]], wide: int, data: st.DataObject
) -> None:
    schema, rows = topic
    plainly = fastavro.parse_schema(bare(schema))
    good = [write(plainly, row) for row in rows]
    bad = [data.draw(damage(message)) for message in good]
    check_damaged(interpreted_shape(schema, wide), schema, parse(json.dumps(schema), "test"), good, bad)


@QUICK
@given(st.fixed_dictionaries(PIECES), st.data())
def test_the_compiled_program_stands_damage(row: Any, data: st.DataObject) -> None:
    good = write(fastavro.parse_schema(bare(FIXED_SET)), row)
    bad = data.draw(st.lists(damage(good), min_size=1, max_size=8))
    check_damaged(compiled_shape(), FIXED_SET, parse(json.dumps(FIXED_SET), "test"), [good], bad)


@QUICK
@given(st.fixed_dictionaries(PIECES))
def test_every_truncation_is_rejected(row: Any) -> None:
    good = write(fastavro.parse_schema(bare(FIXED_SET)), row)
    assume(len(good) > 1)
    got = run(compiled_shape(), [good[:k] for k in range(len(good))] + [good])
    assert set(got.rows) == {len(good)}
    assert len(got.rejects) == len(good)


@settings(QUICK, max_examples=400)
@given(st.binary(max_size=12) | st.lists(st.integers(0x70, 0xFF), max_size=6).map(bytes), st.binary(max_size=10))
def test_utf8_is_checked_as_python_checks_it(text: bytes, after: bytes) -> None:
    data = np.frombuffer(text + after, np.uint8)
    try:
        text.decode()
        well_formed = True
    except UnicodeDecodeError:
        well_formed = False
    assert native.is_utf8(data, np.uint64(0), np.uint64(len(text))) == well_formed


@pytest.mark.parametrize("lead", range(0x80, 0x100))
def test_every_two_byte_start_is_judged_as_python_judges_it(lead: int) -> None:
    for second in range(0x100):
        for tail in (b"", b"\x80", b"\x80\x80", b"\xbf\xbf", b"a"):
            text = bytes([lead, second]) + tail
            try:
                text.decode()
                well_formed = True
            except UnicodeDecodeError:
                well_formed = False
            data = np.frombuffer(text, np.uint8)
            assert native.is_utf8(data, np.uint64(0), np.uint64(len(text))) == well_formed, text.hex()
