"""What every decoder promises, whatever the form. A format joins by adding itself to `FORMATS`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
import requests

from lakeward.clock import SystemClock
from lakeward.decoding.avro import AvroDecoder
from lakeward.decoding.debezium import DebeziumDecoder, DebeziumSettings
from lakeward.decoding.json import JsonDecoder
from lakeward.decoding.registry import RegistryClient
from lakeward.records import Blobs, Decoded, RawBatch
from lakeward.stages import Decoder
from lakeward.testing.registry import EmbeddedRegistry

TOPIC = "orders"


@dataclass
class Format:
    """A decoder for rows of ``id`` (long) and ``name`` (string), and messages for it."""

    decoder: Decoder
    good: Callable[[int, str], bytes]
    bad: list[bytes]
    """Messages that are no rows; none of them empty."""


def avro(stack: ExitStack, *more: dict[str, Any]) -> Format:
    fields = [{"name": "id", "type": "long"}, {"name": "name", "type": "string"}, *more]
    schema: dict[str, Any] = {"type": "record", "name": "Order", "fields": fields}
    registry = stack.enter_context(EmbeddedRegistry())
    schema_id = registry.register(f"{TOPIC}-value", json.dumps(schema))
    client = RegistryClient(registry.url, None, SystemClock(), requests.Session())
    stack.callback(client.close)
    header = b"\0" + schema_id.to_bytes(4, "big")

    def good(number: int, name: str) -> bytes:
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, {"id": number, "name": name, "more": []})
        return header + stream.getvalue()

    bad = [b"x", b"\1" + good(1, "a")[1:], good(1, "abc")[:-1], good(1, "abc") + b"x", header + b"\2\2\xff"]
    return Format(AvroDecoder(client, None), good, bad)


def avro_inside_itself(stack: ExitStack) -> Format:
    """Such records are read one by one."""
    return avro(stack, {"name": "more", "type": {"type": "array", "items": "Order"}})


def json_objects(_stack: ExitStack) -> Format:
    def good(number: int, name: str) -> bytes:
        return json.dumps({"id": number, "name": name}).encode()

    bad = [b"x", good(1, "a")[:-1], good(1, "a") + b"}", b"[]", b'{"id":"1"}', b'{"id":1,"name":"\xff"}']
    return Format(JsonDecoder({"id": "long", "name": "string"}), good, bad)


def change_events(_stack: ExitStack) -> Format:
    def good(number: int, name: str) -> bytes:
        told = {"source": {"connector": "postgresql", "lsn": number}, "op": "c", "ts_ms": 1}
        return json.dumps({"before": None, "after": {"id": number, "name": name}, **told}).encode()

    bad = [b"x", good(1, "a")[:-1], good(1, "a") + b"}", b"[]", good(1, "a").replace(b'"c"', b'"x"'), b'{"id":"1"}']
    columns = pa.schema([("id", pa.int64()), ("name", pa.string())])
    return Format(DebeziumDecoder(DebeziumSettings(columns=columns)), good, bad)


FORMATS = {
    "avro": avro,
    "avro inside itself": avro_inside_itself,
    "json": json_objects,
    "change events": change_events,
}


@pytest.fixture(scope="module", params=sorted(FORMATS))
def form(request: pytest.FixtureRequest) -> Iterator[Format]:
    with ExitStack() as stack:
        yield FORMATS[request.param](stack)


def batch(values: Blobs) -> RawBatch:
    count = len(values)
    offsets = np.arange(100, 100 + count, dtype=np.int64)
    keys = Blobs.of([None] * count)
    return RawBatch(TOPIC, np.zeros(count, np.int32), offsets, offsets, keys, values)


def decode(form: Format, messages: list[bytes | None]) -> Decoded:
    return form.decoder.decode(batch(Blobs.of(messages)))


def rows(decoded: Decoded) -> dict[int, tuple[int, str]]:
    found: dict[int, tuple[int, str]] = {}
    for part in decoded.parts:
        part.rows.validate(full=True)
        assert part.index.dtype == np.int64
        assert part.rows.num_rows == len(part.index) > 0
        assert (np.diff(part.index) > 0).all()
        for index, row in zip(part.index.tolist(), part.rows.to_pylist(), strict=True):
            assert index not in found
            found[index] = (row["id"], row["name"])
    return found


def test_every_message_is_a_row_a_reject_or_skipped_exactly_once(form: Format) -> None:
    messages: list[bytes | None] = []
    for k, bad in enumerate(form.bad):
        messages += [form.good(k, "é" * k), bad, None]
    decoded = decode(form, messages)
    found = rows(decoded)
    places = [*found, *(r.index for r in decoded.rejects), *decoded.skipped.tolist()]
    assert sorted(places) == list(range(len(messages)))
    assert found == {3 * k: (k, "é" * k) for k in range(len(form.bad))}
    assert decoded.skipped.tolist() == [3 * k + 2 for k in range(len(form.bad))]


def test_rejects_come_in_order_with_a_code_and_a_reason(form: Format) -> None:
    decoded = decode(form, list(form.bad))
    assert [r.index for r in decoded.rejects] == list(range(len(form.bad)))
    assert list(decoded.parts) == []
    for reject in decoded.rejects:
        assert reject.code
        assert reject.code == reject.code.lower().replace(" ", "-")
        assert reject.reason


def test_a_bad_message_anywhere_leaves_its_neighbours_alone(form: Format) -> None:
    good = [form.good(k, f"name {k}") for k in range(6)]
    for bad in form.bad:
        for place in range(7):
            decoded = decode(form, [*good[:place], bad, *good[place:]])
            assert list(rows(decoded).values()) == [(k, f"name {k}") for k in range(6)]
            assert [r.index for r in decoded.rejects] == [place]


def test_an_empty_batch_and_one_of_tombstones_have_no_rows(form: Format) -> None:
    assert rows(decode(form, [])) == {}
    decoded = decode(form, [None, None])
    assert list(decoded.parts) == []
    assert list(decoded.rejects) == []
    assert decoded.skipped.tolist() == [0, 1]


def test_messages_need_not_lie_in_order_nor_side_by_side(form: Format) -> None:
    values = Blobs.of([form.good(k, "x" * k) for k in range(20)])
    chosen = np.array([19, 3, 4, 0], np.int64)
    decoded = form.decoder.decode(batch(values.select(chosen)))
    assert rows(decoded) == {i: (int(k), "x" * int(k)) for i, k in enumerate(chosen)}


def test_a_buffer_that_may_not_be_written_to_is_read_all_the_same(form: Format) -> None:
    data = Blobs.of([form.good(1, "a")])
    writable = Blobs(data.data.copy(), data.start, data.length)
    assert rows(form.decoder.decode(batch(writable))) == rows(form.decoder.decode(batch(data))) == {0: (1, "a")}
    assert writable.data.flags.writeable


def test_the_schema_told_beforehand_is_the_schema_of_the_rows(form: Format) -> None:
    schema = form.decoder.schema(TOPIC)
    assert schema is not None
    (part,) = decode(form, [form.good(1, "a")]).parts
    assert part.rows.schema.equals(schema, check_metadata=True)
    assert schema.field("id").type == pa.int64()


def test_decoding_the_same_batch_again_gives_the_same(form: Format) -> None:
    messages = [form.good(k, f"{k}") for k in range(50)] + list(form.bad)
    first, second = decode(form, list(messages)), decode(form, list(messages))
    assert rows(first) == rows(second)
    assert list(first.rejects) == list(second.rejects)
