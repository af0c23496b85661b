"""JSON behind the header of a schema registry's client, and values that are not decoded at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests

from lakeward.clock import SystemClock
from lakeward.decoding.json import JsonDecoder, Surroundings
from lakeward.decoding.json_registered import fields_of
from lakeward.decoding.plain import PlainDecoder
from lakeward.decoding.registry import Patience, Registered, RegistryClient
from lakeward.errors import UnreachableError
from lakeward.records import Blobs, Decoded, RawBatch
from lakeward.testing.registry import EmbeddedRegistry

PROPERTIES = {"id": {"type": "integer"}, "at": {"type": "string", "format": "date-time"}, "x": {"$ref": "#/x"}}
SCHEMA = {"type": "object", "properties": PROPERTIES}


@pytest.fixture
def registry() -> Iterator[EmbeddedRegistry]:
    with EmbeddedRegistry() as running:
        yield running


@pytest.fixture
def client(registry: EmbeddedRegistry) -> Iterator[RegistryClient]:
    made = RegistryClient(registry.url, None, SystemClock(), requests.Session(), Patience(first_pause=0.01))
    yield made
    made.close()


def batch(payloads: list[bytes | None]) -> RawBatch:
    count = len(payloads)
    offsets = np.arange(count, dtype=np.int64)
    return RawBatch("t", np.zeros(count, np.int32), offsets, offsets, Blobs.of([None] * count), Blobs.of(payloads))


def framed(schema_id: int, record: Any) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + json.dumps(record).encode()


def registered(registry: EmbeddedRegistry, schema: Any, kind: str = "JSON") -> int:
    return registry.store.register("t-value", {"schema": json.dumps(schema), "schemaType": kind}).id


def rows(decoded: Decoded) -> list[dict[str, Any]]:
    return [row for part in decoded.parts for row in part.rows.to_pylist()]


def test_without_a_registry_the_header_is_passed_over_and_unframed_messages_may_be_among_them() -> None:
    payloads = [framed(7, {"a": 1}), b'{"a":2}', None, framed(8, {"a": 3}), b"\0\0\0", b"\0\0\0\0\1", framed(9, [1])]
    decoded = JsonDecoder({"a": "long"}).decode(batch(list(payloads)))
    assert rows(decoded) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert decoded.parts[0].index.tolist() == [0, 1, 3]
    assert decoded.skipped.tolist() == [2]
    found = [(one.index, one.code, one.schema_id) for one in decoded.rejects]
    assert found == [(4, "too-short", None), (5, "empty-payload", 1), (6, "not-an-object", 9)]


def test_a_registry_is_asked_what_an_id_stands_for(registry: EmbeddedRegistry, client: RegistryClient) -> None:
    good = registered(registry, SCHEMA)
    avro = registered(registry, {"type": "record", "name": "R", "fields": []}, "AVRO")
    protobuf = registered(registry, "message M {}", "PROTOBUF")
    decoder = JsonDecoder({"id": "long"}, surroundings=Surroundings(registry=client))
    ids = [good, avro, protobuf, 999, good]
    decoded = decoder.decode(batch([framed(schema_id, {"id": k}) for k, schema_id in enumerate(ids)]))
    assert rows(decoded) == [{"id": 0}, {"id": 4}]
    assert [(one.index, one.code, one.schema_id) for one in decoded.rejects] == [
        (1, "foreign-schema-type", avro),
        (2, "foreign-schema-type", protobuf),
        (3, "unknown-schema-id", 999),
    ]
    assert "PROTOBUF" in decoded.rejects[1].reason


def test_what_a_schema_declares_comes_before_what_is_inferred(
    registry: EmbeddedRegistry, client: RegistryClient
) -> None:
    decoder = JsonDecoder(None, surroundings=Surroundings(registry=client))
    first = registered(registry, SCHEMA)
    record = {"id": 1, "at": "2026-01-01T00:00:00Z", "x": 0.5}
    assert len(rows(decoder.decode(batch([framed(first, record)])))) == 1
    wanted = {"id": pa.int64(), "at": pa.timestamp("us", "UTC"), "x": pa.float64()}
    assert decoder.schema("t") == pa.schema(wanted)
    wider = registered(registry, {**SCHEMA, "properties": {**PROPERTIES, "ratio": {"type": ["null", "number"]}}})
    assert rows(decoder.decode(batch([framed(wider, {"id": 2, "ratio": 3})])))[0]["ratio"] == 3.0
    assert decoder.schema("t") == pa.schema({**wanted, "ratio": pa.float64()})


def test_a_registry_that_is_away_is_waited_for_and_never_becomes_a_reject(
    registry: EmbeddedRegistry, client: RegistryClient
) -> None:
    schema_id = registered(registry, SCHEMA)
    decoder = JsonDecoder({"id": "long"}, surroundings=Surroundings(registry=client))
    registry.fail(500, times=5)
    with pytest.raises(UnreachableError):
        decoder.decode(batch([framed(schema_id, {"id": 1})]))
    assert rows(decoder.decode(batch([framed(schema_id, {"id": 1})]))) == [{"id": 1}]


def test_the_types_of_a_json_schema() -> None:
    text = {"type": "string"}
    properties = {
        "s": text,
        "d": {"type": "string", "format": "date"},
        "o": {"type": "object", "properties": {"b": {"oneOf": [{"type": "null"}, {"type": "boolean"}]}, "y": {}}},
        "m": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "integer"}}},
        "several": {"type": ["string", "integer"]},
        "none": {},
        "ref": {"$ref": "#/definitions/x"},
        "any": {"anyOf": [text, {"type": "integer"}]},
        "odd": 5,
        "bare": {"type": "object"},
    }
    found = fields_of(Registered("JSON", json.dumps({"type": "object", "properties": properties})))
    assert {field.name: str(field.type) for field in found} == {
        "s": "string",
        "d": "date",
        "o": "struct<b:boolean>",
        "m": "map<string,list<long>>",
    }
    for other in ("{", "[]", '{"type":"array"}', "true"):
        assert fields_of(Registered("JSON", other)) == ()


def test_bytes_are_rows_as_they_are() -> None:
    decoded = PlainDecoder(text=False).decode(batch([b"\0\xff", None, b"", b"{"]))
    assert rows(decoded) == [{"value": b"\0\xff"}, {"value": b""}, {"value": b"{"}]
    assert decoded.parts[0].index.tolist() == [0, 2, 3]
    assert decoded.skipped.tolist() == [1]
    assert PlainDecoder(text=False).schema("t") == decoded.parts[0].rows.schema == pa.schema({"value": pa.binary()})


def test_text_must_be_utf8() -> None:
    payloads: list[bytes | None] = [f"é{k}".encode() if k % 1000 else b"\xed\xa0\x80" for k in range(3000)]
    decoded = PlainDecoder(text=True).decode(batch([*payloads, None, b""]))
    assert [(one.index, one.code) for one in decoded.rejects] == [(k, "invalid-utf8") for k in (0, 1000, 2000)]
    [part] = decoded.parts
    assert part.index.tolist() == [k for k in range(3000) if k % 1000] + [3001]
    assert part.rows.column("value").to_pylist() == [f"é{k}" for k in range(3000) if k % 1000] + [""]
    assert PlainDecoder(text=True).schema("t") == part.rows.schema
    assert list(PlainDecoder(text=True).decode(batch([b"\xff"])).parts) == []
