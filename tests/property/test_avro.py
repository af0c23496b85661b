from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.avro_topics import (
    by_reference,
    compiled_shape,
    damaged,
    expected,
    interpreted_shape,
    members,
    rows_of,
    run,
    told,
    topics,
)

from lakeward.decoding import native
from lakeward.decoding.avro_reader import DamagedError, RecordReader
from lakeward.decoding.avro_reference import AvroReading
from lakeward.decoding.avro_schema import parse
from lakeward.decoding.avro_shape import ReadShape, Shape
from lakeward.decoding.avro_types import Record
from lakeward.decoding.registry import Registered
from lakeward.errors import SchemaMismatchError

QUICK = settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
SEEDS = st.integers(0, 2**32)
WIDTHS = st.sampled_from([0, 1, 24])
"""From how many fields on a record is read by functions, one a shape of field."""


def everything() -> dict[str, Any]:
    """A schema with every type and every nesting in it; it is compiled once."""
    wide = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}
    uuid = {"type": "fixed", "name": "Uuid", "size": 16, "logicalType": "uuid"}
    duration = {"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"}
    leg = {"type": "record", "name": "Leg", "fields": members(["string", {"type": "array", "items": "int"}, "double"])}
    enum = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
    party = {"type": "record", "name": "Party", "fields": members(["boolean", ["null", enum], "float"])}
    union = ["null", "string", {"type": "map", "values": ["int", "null"]}, uuid]
    return {
        "type": "record",
        "name": "Top",
        "fields": members(
            [
                "string",
                ["null", "long"],
                {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 6},
                [wide, "null"],
                {"type": "fixed", "name": "F9", "size": 9, "logicalType": "decimal", "precision": 18},
                {"type": "array", "items": ["null", leg]},
                ["null", party],
                {"type": "array", "items": {"type": "array", "items": "string"}},
                {"type": "array", "items": "null"},
                {"type": "long", "logicalType": "timestamp-millis"},
                {"type": "string", "logicalType": "uuid"},
                {"type": "fixed", "name": "F3", "size": 3},
                {"type": "int", "logicalType": "time-millis"},
                ["bytes"],
                [duration, "null"],
                {"type": "array", "items": union},
                ["null", {"type": "record", "name": "Nothing", "fields": []}],
                "int",
            ]
        ),
    }


TREE: dict[str, Any] = {
    "type": "record",
    "name": "Tree",
    "fields": [
        {"name": "value", "type": ["null", "int", "string", {"type": "long", "logicalType": "timestamp-micros"}]},
        {"name": "left", "type": ["null", "Tree"]},
        {"name": "more", "type": {"type": "map", "values": "Tree"}},
        {"name": "rest", "type": {"type": "array", "items": "Tree"}},
    ],
}


@cache
def whole() -> tuple[Registered, Record, Shape | ReadShape]:
    registered = Registered("AVRO", json.dumps(everything()))
    record = parse(registered.text, "test")
    return registered, record, compiled_shape(record)


# --- properties ----------------------------------------------------------------------------------------------------


@QUICK
@given(topics(), SEEDS, WIDTHS)
def test_any_schema_and_any_records_read_as_fastavro_reads_them(schema: Any, seed: int, wide: int) -> None:
    registered, record = told(schema)
    rows = rows_of(record, seed, 4)
    got = run(interpreted_shape(record, wide), [payload for _, payload in rows])
    assert got.rejects == {}
    assert got.others == []
    assert got.rows == {i: expected(record, value) for i, (value, _) in enumerate(rows)}
    reading = AvroReading(registered, record)
    assert got.rows == {i: by_reference(reading, record, payload) for i, (_, payload) in enumerate(rows)}


@settings(QUICK, max_examples=20)
@given(SEEDS)
def test_the_compiled_program_reads_what_fastavro_reads(seed: int) -> None:
    registered, record, shape = whole()
    rows = rows_of(record, seed, 20)
    got = run(shape, [payload for _, payload in rows])
    assert got.rejects == {}
    assert got.rows == {i: expected(record, value) for i, (value, _) in enumerate(rows)}
    reading = AvroReading(registered, record)
    assert got.rows == {i: by_reference(reading, record, payload) for i, (_, payload) in enumerate(rows)}


@settings(QUICK, max_examples=40)
@given(SEEDS)
def test_records_that_hold_themselves_read_as_fastavro_reads_them(seed: int) -> None:
    registered, record = told(TREE)
    rows = rows_of(record, seed, 4)
    got = run(ReadShape.of(record), [payload for _, payload in rows])
    assert got.rows == {i: expected(record, value) for i, (value, _) in enumerate(rows)}
    reading = AvroReading(registered, record)
    assert got.rows == {i: by_reference(reading, record, payload) for i, (_, payload) in enumerate(rows)}


def check_damaged(shape: Shape | ReadShape, registered: Registered, record: Record, seed: int, count: int) -> None:
    """Every other message is damaged: verdict, code, field and value are the reference's, and the others are whole."""
    rng = random.Random(seed)
    rows = rows_of(record, seed, count)
    messages = [message for _, payload in rows for message in (payload, damaged(rng, payload))]
    got = run(shape, messages)
    assert got.others == []
    assert sorted([*got.rows, *got.rejects]) == list(range(len(messages)))
    reading = AvroReading(registered, record)
    for i, message in enumerate(messages):
        verdict = got.rows[i] if i in got.rows else (got.rejects[i].code, got.rejects[i].reason)
        assert verdict == by_reference(reading, record, message), message.hex()
    for i, (value, _) in enumerate(rows):
        assert got.rows[2 * i] == expected(record, value)


@QUICK
@given(topics(), SEEDS, WIDTHS)
def test_damage_never_passes_for_something_else_nor_harms_the_neighbours(schema: Any, seed: int, wide: int) -> None:
    registered, record = told(schema)
    check_damaged(interpreted_shape(record, wide), registered, record, seed, 4)


@settings(QUICK, max_examples=60)
@given(SEEDS)
def test_the_compiled_program_stands_damage(seed: int) -> None:
    registered, record, shape = whole()
    check_damaged(shape, registered, record, seed, 20)


@settings(QUICK, max_examples=40)
@given(SEEDS)
def test_records_that_hold_themselves_stand_damage(seed: int) -> None:
    registered, record = told(TREE)
    check_damaged(ReadShape.of(record), registered, record, seed, 5)


@settings(QUICK, max_examples=10)
@given(SEEDS)
def test_every_truncation_is_rejected(seed: int) -> None:
    _, record, shape = whole()
    ((value, good),) = rows_of(record, seed, 1)
    got = run(shape, [*(good[:k] for k in range(len(good))), good])
    assert got.rows == {len(good): expected(record, value)}
    assert {reject.code for reject in got.rejects.values()} <= {"truncated", "too-many-items"}
    reader = RecordReader(record)
    for k, reject in got.rejects.items():
        with pytest.raises(DamagedError) as caught:
            reader.read(good[:k], 0)
        assert (caught.value.code, caught.value.reason) == (reject.code, reject.reason)


STRANGE: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    2**40,
    "",
    "int",
    "record",
    "a.b",
    "\ud800",
    [],
    {},
    ["int"],
    {"type": []},
]
KEYS = [
    "logicalType",
    "namespace",
    "aliases",
    "doc",
    "size",
    "items",
    "precision",
    "scale",
    "type",
    "symbols",
    "values",
]


def twisted(rng: random.Random, schema: Any) -> Any:
    """The schema with a part replaced by something strange here and there, or left out."""
    if rng.random() < 0.05:
        return rng.choice(STRANGE)
    if isinstance(schema, list):
        return [twisted(rng, one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: twisted(rng, one) for key, one in schema.items() if rng.random() > 0.02}
    return {**kept, rng.choice(KEYS): rng.choice(STRANGE)} if rng.random() < 0.05 else kept


@settings(QUICK, max_examples=200)
@given(topics(), SEEDS)
def test_a_strange_schema_is_read_or_refused_and_nothing_else(schema: Any, seed: int) -> None:
    try:
        record = parse(json.dumps(twisted(random.Random(seed), schema)), "test")
    except SchemaMismatchError:
        return
    interpreted_shape(record, 0)
    RecordReader(record)


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
