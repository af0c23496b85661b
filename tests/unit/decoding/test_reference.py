"""The decoders that audits use agree with the fast ones, and share nothing with them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import fastavro
import numpy as np
import pytest
import requests

from lakeward.clock import SystemClock
from lakeward.decoding.avro import AvroDecoder
from lakeward.decoding.json import JsonDecoder
from lakeward.decoding.json_fields import declared
from lakeward.decoding.reference import ReferenceDecoder, avro_reference, json_reference_of
from lakeward.decoding.registry import RegistryClient
from lakeward.records import Blobs, RawBatch
from lakeward.testing.registry import EmbeddedRegistry

EVERYTHING: dict[str, Any] = {
    "type": "record",
    "name": "Everything",
    "fields": [
        {"name": "flag", "type": "boolean"},
        {"name": "int", "type": "int"},
        {"name": "long", "type": "long"},
        {"name": "float", "type": "float"},
        {"name": "double", "type": "double"},
        {"name": "text", "type": ["null", "string"]},
        {"name": "bytes", "type": "bytes"},
        {"name": "fixed", "type": {"type": "fixed", "name": "F", "size": 3}},
        {"name": "enum", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 6}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "clock", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "fine_clock", "type": {"type": "long", "logicalType": "time-micros"}},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        {"name": "fine_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
        {"name": "uuid", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "times", "type": {"type": "array", "items": {"type": "long", "logicalType": "timestamp-millis"}}},
        {
            "name": "leg",
            "type": {
                "type": "record",
                "name": "Leg",
                "fields": [{"name": "due", "type": {"type": "long", "logicalType": "timestamp-millis"}}],
            },
        },
    ],
}
NOON = datetime(2026, 1, 2, 12, 0, 0, 123000, tzinfo=UTC)
ROW: dict[str, Any] = {
    "flag": True,
    "int": -(2**31),
    "long": 2**63 - 1,
    "float": 0.10000000149011612,
    "double": -0.1,
    "text": "é",
    "bytes": b"\x00\xff",
    "fixed": b"abc",
    "enum": "B",
    "price": Decimal("-123456789012.000001"),
    "day": date(1969, 12, 31),
    "clock": time(23, 59, 59, 999000),
    "fine_clock": time(0, 0, 0, 1),
    "at": NOON,
    "fine_at": NOON.replace(microsecond=1),
    "local": NOON.replace(tzinfo=None),
    "uuid": "12345678-1234-5678-1234-56781234567A",
    "times": [NOON, NOON],
    "leg": {"due": NOON},
}


@pytest.fixture
def registry() -> Iterator[EmbeddedRegistry]:
    with EmbeddedRegistry() as running:
        yield running


@pytest.fixture
def client(registry: EmbeddedRegistry) -> Iterator[RegistryClient]:
    with requests.Session() as session:
        yield RegistryClient(registry.url, None, SystemClock(), session)


def batch(payloads: Sequence[bytes | None]) -> RawBatch:
    count = len(payloads)
    numbers = np.arange(count, dtype=np.int64)
    return RawBatch(
        "t", np.zeros(count, np.int32), numbers, numbers, Blobs.of([None] * count), Blobs.of(list(payloads))
    )


def framed(registry: EmbeddedRegistry, schema: dict[str, Any], row: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), row)
    number = registry.register("t-value", json.dumps(schema))
    return b"\0" + number.to_bytes(4, "big") + stream.getvalue()


def rows(decoder: ReferenceDecoder | AvroDecoder | JsonDecoder, payloads: Sequence[bytes | None]) -> list[Any]:
    decoded = decoder.decode(batch(payloads))
    assert not decoded.rejects
    return [(part.index.tolist(), part.rows.schema, part.rows.to_pylist()) for part in decoded.parts]


def test_avro_rows_are_those_of_the_fast_decoder(registry: EmbeddedRegistry, client: RegistryClient) -> None:
    payloads = [framed(registry, EVERYTHING, row) for row in (ROW, {**ROW, "text": None, "at": None, "times": []})]
    reference = rows(avro_reference(client), payloads)
    assert reference == rows(AvroDecoder(client, None), payloads)
    assert reference[0][2][0]["at"] == NOON
    assert reference[0][2][0]["uuid"] == ROW["uuid"]


def test_types_of_other_subjects_are_read_by_both(registry: EmbeddedRegistry, client: RegistryClient) -> None:
    leg = {"type": "record", "name": "Leg", "fields": [{"name": "x", "type": ["int", "string", "null"]}]}
    legs = {"type": "array", "items": "Leg"}
    top = {"type": "record", "name": "Top", "fields": [{"name": "legs", "type": legs}, {"name": "one", "type": "Leg"}]}
    registry.register("leg", json.dumps(leg))
    to_leg = {"name": "Leg", "subject": "leg", "version": 1}
    number = registry.store.register("top-value", {"schema": json.dumps(top), "references": [to_leg]}).id
    payload = b"\0" + number.to_bytes(4, "big") + b"\4" + b"\0\6" + b"\2\2x" + b"\0" + b"\4"
    reference = rows(avro_reference(client), [payload])
    assert reference == rows(AvroDecoder(client, None), [payload])
    legs_read = [{"x": {"int": 3, "string": None}}, {"x": {"int": None, "string": "x"}}]
    assert reference[0][2] == [{"legs": legs_read, "one": {"x": None}}]


def test_a_schema_that_cannot_be_used_is_the_same_reject_for_both(
    registry: EmbeddedRegistry, client: RegistryClient
) -> None:
    foreign = registry.store.register("p-value", {"schema": "syntax", "schemaType": "PROTOBUF"}).id
    wide = {"type": "bytes", "logicalType": "decimal", "precision": 39}
    unfit = registry.register(
        "w-value", json.dumps({"type": "record", "name": "W", "fields": [{"name": "a", "type": wide}]})
    )
    messages = [b"\0" + number.to_bytes(4, "big") + b"\0" for number in (foreign, unfit, 4711, 2**32 - 1)]
    told = [
        [(reject.index, reject.code, reject.reason) for reject in decoder.decode(batch(messages)).rejects]
        for decoder in (avro_reference(client), AvroDecoder(client, None))
    ]
    assert told[0] == told[1]
    assert [code for _, code, _ in told[0]] == [
        "foreign-schema-type",
        "unsupported-schema",
        "unknown-schema-id",
        "unknown-schema-id",
    ]


def test_a_moment_that_python_has_no_year_for_is_read(registry: EmbeddedRegistry, client: RegistryClient) -> None:
    stamp = {"type": "long", "logicalType": "timestamp-micros"}
    plain = {"type": "record", "name": "R", "fields": [{"name": "at", "type": "long"}]}
    payload = framed(registry, plain, {"at": 2**60})
    number = registry.register("t-value", json.dumps({**plain, "fields": [{"name": "at", "type": stamp}]}))
    payload = b"\0" + number.to_bytes(4, "big") + payload[5:]
    (part,) = avro_reference(client).decode(batch([payload])).parts
    assert part.rows["at"].cast("int64").to_pylist() == [2**60]


def test_rows_are_grouped_by_writer_schema(registry: EmbeddedRegistry, client: RegistryClient) -> None:
    one = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
    two = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}
    payloads = [framed(registry, schema, {"a": n}) for n, schema in enumerate((one, two, one))]
    found = rows(avro_reference(client), payloads)
    assert [(index, values) for index, _, values in found] == [([0, 2], [{"a": 0}, {"a": 2}]), ([1], [{"a": 1}])]


def test_what_is_no_record_is_rejected_and_tombstones_are_skipped(
    registry: EmbeddedRegistry, client: RegistryClient
) -> None:
    good = framed(registry, EVERYTHING, ROW)
    decoded = avro_reference(client).decode(
        batch([good[:-1], None, good + b"x", b"\1" + good[1:], b"\0\0\0\x03\xe7x", b"x", good])
    )
    assert decoded.skipped.tolist() == [1]
    assert [(reject.index, reject.code) for reject in decoded.rejects] == [
        (0, "truncated"),
        (2, "trailing-bytes"),
        (3, "wrong-magic"),
        (4, "unknown-schema-id"),
        (5, "too-short"),
    ]
    assert decoded.parts[0].index.tolist() == [6]


def test_json_rows_are_those_of_the_fast_decoder() -> None:
    fields = {"id": "long", "price": "decimal(18,6)", "at": "timestamptz", "ok": "boolean", "ratio": "double"}
    payloads: list[bytes | None] = [
        b'{"id":1,"price":"1.5","at":"2026-01-02T12:00:00.123+11:00","ok":true,"ratio":1e-7}',
        None,
        b'{"ratio":-0.0}',
    ]
    assert rows(json_reference_of(declared(fields)), payloads) == rows(JsonDecoder(fields), payloads)
