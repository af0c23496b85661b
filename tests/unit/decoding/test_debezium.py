"""Change events as JSON without schemas: what becomes a row, what it does, and what is told besides."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward.changes import Effect
from lakeward.decoding.debezium import DebeziumDecoder, DebeziumSettings
from lakeward.records import Blobs, Decoded, RawBatch

TOPIC = "shop.public.orders"
SOURCE = {
    "version": "3.6.1.Final",
    "connector": "postgresql",
    "name": "shop",
    "ts_ms": 1700000000000,
    "snapshot": "false",
    "db": "shop",
    "sequence": '["23803719","23803720"]',
    "ts_us": 1700000000000123,
    "ts_ns": 1700000000000123000,
    "schema": "public",
    "table": "orders",
    "txId": 7,
    "lsn": 23803720,
    "xmin": None,
}
AT = dt.datetime(2023, 11, 14, 22, 13, 20, 123, tzinfo=dt.UTC)
Message = tuple[Any, Any]


def event(operation: str, after: dict[str, Any] | None, before: dict[str, Any] | None = None) -> dict[str, Any]:
    told = {"transaction": None, "op": operation, "ts_ms": 1700000000001}
    return {"before": before, "after": after, "source": SOURCE, **told}


def batch(messages: list[Message], partition: list[int] | None = None, topic: str = TOPIC) -> RawBatch:
    offsets = np.arange(len(messages), dtype=np.int64)
    keys, values = (Blobs.of([written(one) for one in column]) for column in zip(*messages, strict=True))
    places = np.array(partition or [0] * len(messages), np.int32)
    return RawBatch(topic, places, offsets, offsets, keys, values)


def written(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return json.dumps(value, ensure_ascii=False).encode()


def decode(*messages: Message, **settings: Any) -> Decoded:
    return DebeziumDecoder(DebeziumSettings(**settings)).decode(batch(list(messages)))


def rows(decoded: Decoded) -> list[tuple[int, str, dict[str, Any]]]:
    """Message, effect and values of every row; null values left out."""
    found: list[tuple[int, str, dict[str, Any]]] = []
    for part in decoded.parts:
        part.rows.validate(full=True)
        assert part.changes is not None
        assert len(part.changes) == len(part.index) == part.rows.num_rows
        effects = [Effect(effect).name for effect in part.changes.effect]
        for index, effect, row in zip(part.index.tolist(), effects, part.rows.to_pylist(), strict=True):
            found.append((index, effect, {name: value for name, value in row.items() if value is not None}))
    return sorted(found, key=lambda one: one[0])


def codes(decoded: Decoded) -> dict[int, str]:
    return {reject.index: reject.code for reject in decoded.rejects}


def test_each_operation_becomes_what_it_does_to_the_row_of_its_key() -> None:
    decoded = decode(
        ({"id": 1}, event("r", {"id": 1, "name": "a"})),
        ({"id": 2}, event("c", {"id": 2, "name": "b"})),
        ({"id": 2}, event("u", {"id": 2, "name": "c"})),
        ({"id": 1}, event("d", None)),
        (None, event("t", None)),
    )
    assert rows(decoded) == [
        (0, "UPSERT", {"id": 1, "name": "a"}),
        (1, "UPSERT", {"id": 2, "name": "b"}),
        (2, "UPSERT", {"id": 2, "name": "c"}),
        (3, "DELETE", {"id": 1}),
        (4, "TRUNCATE", {}),
    ]
    (part,) = decoded.parts
    assert part.changes is not None
    assert part.changes.key == ("id",)
    assert part.events is not None
    assert part.events.operation.to_pylist() == ["r", "c", "u", "d", "t"]
    assert part.events.source_timestamp.to_pylist() == [AT] * 5
    assert part.events.source_position.to_pylist() == ["0/16B3748"] * 5


def test_the_image_before_a_deletion_is_never_trusted() -> None:
    decoded = decode(
        ({"id": 1}, event("c", {"id": 1, "name": "a"})), ({"id": 1}, event("d", None, {"id": 0, "name": "invented"}))
    )
    assert rows(decoded)[1] == (1, "DELETE", {"id": 1})


def test_a_tombstone_deletes_the_row_of_its_key_unless_its_deletion_came_just_before() -> None:
    messages: list[Message] = [
        ({"id": 1}, event("d", None)),
        ({"id": 2}, event("d", None)),
        ({"id": 1}, None),
        ({"id": 3}, None),
        ({"id": 2}, None),
    ]
    decoded = DebeziumDecoder().decode(batch(messages, [0, 1, 0, 0, 0]))
    assert rows(decoded) == [(i, "DELETE", {"id": key}) for i, key in ((0, 1), (1, 2), (3, 3), (4, 2))]
    assert decoded.skipped.tolist() == [2]


def test_the_history_has_a_row_for_every_event_and_none_for_a_tombstone() -> None:
    decoded = decode(
        ({"id": 1}, event("c", {"id": 1, "name": "a"})),
        ({"id": 1}, event("d", None, {"id": 1, "name": "a"})),
        ({"id": 1}, None),
        (None, event("c", {"id": 2, "name": "b"})),
        keyed=False,
    )
    tables = {tuple(part.index.tolist()): part for part in decoded.parts}
    found = {i: row for index, part in tables.items() for i, row in zip(index, part.rows.to_pylist(), strict=True)}
    assert found == {0: {"id": 1, "name": "a"}, 1: {"id": 1, "name": None}, 3: {"id": 2, "name": "b"}}
    assert all(part.changes is None and part.events is not None for part in decoded.parts)
    assert decoded.skipped.tolist() == [2]


def test_what_is_no_change_of_a_row_is_skipped() -> None:
    transaction = {"status": "END", "id": "7:1", "event_count": 2, "data_collections": [], "ts_ms": 1}
    change = {"source": SOURCE, "ts_ms": 1, "databaseName": "shop", "ddl": "CREATE TABLE a", "tableChanges": []}
    message = {"op": "m", "source": SOURCE, "ts_ms": 1, "message": {"prefix": "a", "content": "Yg=="}}
    decoded = decode(
        ({"serverName": "shop"}, {"ts_ms": 1}), ({"id": "7:1"}, transaction), (None, change), (None, message)
    )
    assert decoded.skipped.tolist() == [0, 1, 2, 3]
    assert list(decoded.parts) == []
    assert decoded.rejects == []


def test_what_cannot_be_a_change_is_rejected_with_its_code() -> None:
    decoded = decode(
        ({"id": 1}, event("x", {"id": 1})),
        ({"id": 1}, event("u", None)),
        ({"id": 1}, b'{"op":"c"'),
        ({"id": 1}, b""),
        ({"id": 1}, b'{"op":"c","op":"d","source":{}}'),
        ({"id": 1}, event("c", {"id": 1})),
    )
    assert codes(decoded) == {
        0: "unknown-operation",
        1: "no-after",
        2: "malformed-json",
        3: "empty-payload",
        4: "duplicate-field",
    }
    assert rows(decoded) == [(5, "UPSERT", {"id": 1})]


def test_columns_that_appear_later_come_as_rows_of_their_own() -> None:
    decoder = DebeziumDecoder()
    decoder.decode(batch([({"id": 1}, event("c", {"id": 1}))]))
    decoded = decoder.decode(
        batch([({"id": 1}, event("u", {"id": 1})), ({"id": 2}, event("c", {"id": 2, "new": "x"}))])
    )
    assert rows(decoded) == [(0, "UPSERT", {"id": 1}), (1, "UPSERT", {"id": 2, "new": "x"})]
    assert [part.rows.column_names for part in decoded.parts] == [["id"], ["id", "new"]]


def test_types_are_those_of_the_table() -> None:
    columns = pa.schema([("id", pa.int32()), ("price", pa.decimal128(10, 2)), ("day", pa.date32()), ("gone", "string")])
    decoded = decode(
        ({"id": 1}, event("c", {"id": 1, "price": "12.5", "day": "2024-01-31"})),
        ({"id": 2}, event("d", None)),
        columns=columns,
    )
    (part,) = decoded.parts
    assert part.rows.schema == columns
    assert part.rows.column("price").cast(pa.string()).to_pylist() == ["12.50", None]
    assert part.rows.column("id").to_pylist() == [1, 2]


def test_a_key_of_several_columns_and_one_that_the_row_lacks() -> None:
    decoded = decode(
        ({"a": 1, "b": "x"}, event("c", {"b": "x", "a": 1, "c": 2})),
        ({"b": "y", "a": 2}, event("d", None)),
        ({"region": "eu"}, event("c", {"b": "x", "a": 1, "c": 2})),
    )
    keys = {part.changes.key for part in decoded.parts if part.changes is not None}
    assert keys == {("a", "b"), ("region",)}
    assert rows(decoded)[2] == (2, "UPSERT", {"b": "x", "a": 1, "c": 2, "region": "eu"})
    assert rows(decoded)[1] == (1, "DELETE", {"a": 2, "b": "y"})


@pytest.mark.parametrize("key", [None, b"7", b"x", {}])
def test_rows_without_a_key_that_names_columns_have_none(key: Any) -> None:
    (part,) = decode((key, event("c", {"id": 1}))).parts
    assert part.changes is not None
    assert part.changes.key == ()


def test_a_key_that_cannot_be_a_row_s_column_is_rejected_and_stops_nothing() -> None:
    strange = {"schema": {"type": "struct", "fields": [{"type": "unheard-of", "field": "id"}]}, "payload": {"id": 7}}
    text = {"schema": {"type": "struct", "fields": [{"type": "string", "field": "id"}]}, "payload": {"id": "x"}}
    assert codes(decode((strange, event("d", None)))) == {0: "unsupported-schema"}
    decoded = decode((text, event("d", None)), (None, None), columns=pa.schema([("id", pa.int64())]))
    assert codes(decoded) == {0: "wrong-type"}
    assert list(decoded.parts) == []
    assert decoded.skipped.tolist() == [1]


@pytest.mark.parametrize("keyed", [True, False])
def test_a_truncation_before_anything_is_known_of_a_table_is_skipped(keyed: bool) -> None:  # noqa: FBT001  a mode
    decoded = decode((None, event("t", None)), keyed=keyed)
    assert decoded.skipped.tolist() == [0]
    known = decode((None, event("t", None)), keyed=keyed, columns=pa.schema([("id", pa.int64())]))
    assert [part.rows.to_pylist() for part in known.parts] == [[{"id": None}]]
