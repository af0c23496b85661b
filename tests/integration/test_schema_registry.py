"""What only a real registry can tell: references between subjects, other kinds of schemas, ids that are not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from servers.schema_registry import SchemaRegistry

from lakeward.clock import SystemClock
from lakeward.decoding.avro import AvroDecoder
from lakeward.decoding.registry import RegistryClient
from lakeward.errors import SchemaMismatchError
from lakeward.records import Blobs, Decoded, RawBatch

OBJECT = '{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}'
PROTOBUF = 'syntax = "proto3"; message Trade { string symbol = 1; }'


@pytest.fixture
def decoder(schema_registry: SchemaRegistry) -> Iterator[AvroDecoder]:
    with requests.Session() as session:
        yield AvroDecoder(RegistryClient(schema_registry.url, None, SystemClock(), session), None)


def register(registry: SchemaRegistry, subject: str, **body: Any) -> int:
    answer = requests.post(f"{registry.url}/subjects/{subject}/versions", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["id"])


def decode(decoder: AvroDecoder, *messages: bytes) -> Decoded:
    numbers = np.arange(len(messages), dtype=np.int64)
    values = Blobs.of(list(messages))
    return decoder.decode(
        RawBatch("t", np.zeros(len(messages), np.int32), numbers, numbers, Blobs.of([None] * len(messages)), values)
    )


def framed(schema_id: int, payload: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + payload


def test_types_of_other_subjects_are_resolved(
    schema_registry: SchemaRegistry, decoder: AvroDecoder, fresh_topic: str
) -> None:
    side = {"type": "enum", "name": "Side", "namespace": "market", "symbols": ["buy", "sell"]}
    leg = {
        "type": "record",
        "name": "Leg",
        "namespace": "market",
        "fields": [{"name": "side", "type": "market.Side"}],
    }
    legs = {"type": "array", "items": "market.Leg"}
    top = {"type": "record", "name": "Top", "namespace": "market", "fields": [{"name": "legs", "type": legs}]}
    subject = f"{fresh_topic}-value"
    register(schema_registry, f"{fresh_topic}-side", schema=json.dumps(side))
    to_side = {"name": "market.Side", "subject": f"{fresh_topic}-side", "version": 1}
    register(schema_registry, f"{fresh_topic}-leg", schema=json.dumps(leg), references=[to_side])
    to_leg = {"name": "market.Leg", "subject": f"{fresh_topic}-leg", "version": 1}
    schema_id = register(schema_registry, subject, schema=json.dumps(top), references=[to_leg])
    decoded = decode(decoder, framed(schema_id, b"\4\2\0\0"))
    assert decoded.parts[0].rows.to_pylist() == [{"legs": [{"side": "sell"}, {"side": "buy"}]}]
    assert decoder.schema(fresh_topic) == decoded.parts[0].rows.schema


@pytest.mark.parametrize(("kind", "schema"), [("PROTOBUF", PROTOBUF), ("JSON", OBJECT)])
def test_schemas_of_other_kinds_are_refused_by_name(
    schema_registry: SchemaRegistry, decoder: AvroDecoder, fresh_topic: str, kind: str, schema: str
) -> None:
    schema_id = register(schema_registry, f"{fresh_topic}-value", schema=schema, schemaType=kind)
    (reject,) = decode(decoder, framed(schema_id, b"\0")).rejects
    assert reject.code == "foreign-schema-type"
    assert f"is a {kind} schema" in reject.reason
    with pytest.raises(SchemaMismatchError, match=f"is a {kind} schema"):
        decoder.schema(fresh_topic)


def test_ids_that_are_not_there_are_rejects_whatever_their_size(
    schema_registry: SchemaRegistry, decoder: AvroDecoder
) -> None:
    assert schema_registry.url
    ids = [0, 2**31 - 1, 2**31, 2**32 - 1]
    decoded = decode(decoder, *(framed(schema_id, b"\0") for schema_id in ids))
    assert [reject.code for reject in decoded.rejects] == ["unknown-schema-id"] * 4
