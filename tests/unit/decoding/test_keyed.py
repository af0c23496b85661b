"""Plain records of a keyed topic."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from lakeward.changes import Effect
from lakeward.decoding.json import JsonDecoder
from lakeward.decoding.keyed import DIFFERENT, MISTYPED, UNREADABLE, KeyedDecoder
from lakeward.decoding.keys import KeyReader, KeyRules, LongKeys, RecordKeys, TextKeys
from lakeward.records import Blobs, Decoded, RawBatch

FIELDS = {"id": "string", "name": "string"}


def raw(*messages: tuple[bytes | None, bytes | None]) -> RawBatch:
    count = len(messages)
    return RawBatch(
        "companies",
        np.zeros(count, np.int32),
        np.arange(count),
        np.zeros(count, np.int64),
        Blobs.of([key for key, _ in messages]),
        Blobs.of([value for _, value in messages]),
    )


def value(company: str | int, name: str = "x") -> bytes:
    return json.dumps({"id": company, "name": name}).encode()


def decode(
    reader: KeyReader | None, batch: RawBatch, fields: dict[str, str] | None = None, seen: pa.Schema | None = None
) -> Decoded:
    decoder = JsonDecoder(fields or FIELDS)
    return KeyedDecoder(decoder, KeyRules(("id",), reader, lambda: seen)).decode(batch)


def told(decoded: Decoded) -> list[tuple[int, int, object]]:
    """Message, effect and key of every change, in stream order."""
    found = []
    for part in decoded.parts:
        assert part.changes is not None
        keys = part.rows.column("id").to_pylist()
        found += list(zip(part.index.tolist(), part.changes.effect.tolist(), keys, strict=True))
    return sorted(found, key=lambda change: change[0])


def test_values_put_rows_in_place_and_tombstones_delete_them() -> None:
    decoded = decode(TextKeys("id"), raw((b"a", value("a")), (b"a", None), (b"b", value("b")), ("ü".encode(), None)))
    assert told(decoded) == [
        (0, Effect.UPSERT, "a"),
        (1, Effect.DELETE, "a"),
        (2, Effect.UPSERT, "b"),
        (3, Effect.DELETE, "ü"),
    ]
    assert not decoded.rejects
    assert not len(decoded.skipped)


def test_a_value_whose_key_column_differs_from_the_messages_key_is_rejected() -> None:
    decoded = decode(TextKeys("id"), raw((b"a", value("a")), (b"b", value("other")), (b"c", value("c"))))
    assert [(reject.index, reject.code) for reject in decoded.rejects] == [(1, DIFFERENT)]
    assert told(decoded) == [(0, Effect.UPSERT, "a"), (2, Effect.UPSERT, "c")]


def test_a_value_without_a_message_key_is_taken_by_its_value() -> None:
    assert told(decode(TextKeys("id"), raw((None, value("a"))))) == [(0, Effect.UPSERT, "a")]


def test_a_tombstone_without_a_key_or_without_a_way_to_read_it_is_rejected() -> None:
    batch = raw((None, None), (b"a", value("a")))
    assert [(one.index, one.code) for one in decode(TextKeys("id"), batch).rejects] == [(0, UNREADABLE)]
    unread = decode(None, raw((b"a", None), (b"b", value("b"))))
    assert [(one.index, one.code) for one in unread.rejects] == [(0, UNREADABLE)]
    assert told(unread) == [(1, Effect.UPSERT, "b")]


def test_a_key_that_is_not_text_is_rejected_and_its_neighbours_stay() -> None:
    decoded = decode(TextKeys("id"), raw((b"\xff", None), (b"a", None), (b"\xff", value("a"))))
    assert [(one.index, one.code) for one in decoded.rejects] == [(0, "key-not-utf8"), (2, "key-not-utf8")]
    assert told(decoded) == [(1, Effect.DELETE, "a")]


@pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_long_keys_are_eight_bytes(number: int) -> None:
    key = number.to_bytes(8, "big", signed=True)
    batch = raw((key, value(number)), (key, None), (b"\0", None))
    decoded = decode(LongKeys("id"), batch, {"id": "long", "name": "string"})
    assert told(decoded) == [(0, Effect.UPSERT, number), (1, Effect.DELETE, number)]
    assert [(one.index, one.code) for one in decoded.rejects] == [(2, "key-not-long")]


def test_text_keys_take_the_type_of_the_column_and_what_is_none_of_its_values_is_rejected() -> None:
    seen = pa.schema([("id", pa.int64())])
    decoded = decode(TextKeys("id"), raw((b"42", None), (b"x", None)), {"id": "long", "name": "string"}, seen)
    assert told(decoded) == [(0, Effect.DELETE, 42)]
    assert [(one.index, one.code) for one in decoded.rejects] == [(1, MISTYPED)]


@pytest.mark.parametrize("key", [b'"a"', b'{"id": "a"}'])
def test_json_keys_are_objects_or_a_value_alone(key: bytes) -> None:
    reader = RecordKeys(JsonDecoder({"id": "string"}), wraps="id")
    decoded = decode(reader, raw((key, value("a")), (key, None), (key, value("b"))))
    assert told(decoded) == [(0, Effect.UPSERT, "a"), (1, Effect.DELETE, "a")]
    assert [(one.index, one.code) for one in decoded.rejects] == [(2, DIFFERENT)]
