"""What a real Debezium told of real databases, decoded and applied change by change, is what the databases showed.

Numbers, moments and bytes are compared as values, not as text.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from tests.fixtures.captures import Capture, Shown, capture

from lakeward.changes import Effect
from lakeward.decoding.bson import value_of
from lakeward.decoding.debezium import DebeziumDecoder, DebeziumSettings
from lakeward.decoding.registry import Registered
from lakeward.records import Blobs, Decoded, RawBatch

Rows = dict[tuple[Any, ...], dict[str, Any]]


class Registry:
    """The schemas of a capture."""

    def __init__(self, schemas: dict[int, str]) -> None:
        self.schemas = schemas

    def schema(self, schema_id: int) -> Registered | None:
        return Registered("AVRO", self.schemas[schema_id]) if schema_id in self.schemas else None

    def latest(self, subject: str) -> tuple[int, Registered] | None:
        assert subject
        return None


def batches(told: Capture, table: str, size: int) -> Iterator[RawBatch]:
    """The messages of a table's topic, so many at a time."""
    events = [event for event in told.events if event.topic.endswith(f".{table}")]
    for low in range(0, len(events), size):
        some = events[low : low + size]
        offset = np.array([event.offset for event in some], np.int64)
        time = np.array([event.timestamp for event in some], np.int64)
        blobs = (Blobs.of([getattr(event, part) for event in some]) for part in ("key", "value"))
        yield RawBatch(some[0].topic, np.zeros(len(some), np.int32), offset, time, *blobs)


def applied(decoded: Decoded, rows: Rows) -> None:
    """Do to ``rows`` what the changes do, in the order of the stream. A new row may be one whose key was changed."""
    changes, gone = [], {}
    for part in decoded.parts:
        assert part.changes is not None
        part.rows.validate(full=True)
        for k, row in enumerate(part.rows.to_pylist()):
            absent = {name for name, mask in part.changes.absent.items() if mask[k]}
            key = tuple(row[name] for name in part.changes.key)
            changes.append((int(part.index[k]), key, part.changes.effect[k], row, absent))
    for _, key, effect, row, absent in sorted(changes, key=lambda one: one[0]):
        if effect == Effect.TRUNCATE:
            rows.clear()
        elif effect == Effect.DELETE:
            gone = rows.pop(key, gone)
        elif key:
            old = rows.get(key, gone)
            rows[key] = {name: old.get(name) if name in absent else value for name, value in row.items()}


def mirrored(name: str, table: str, size: int = 1_000) -> tuple[Rows, dict[int, str]]:
    """The rows that a capture's events leave in a table, and the codes of what is rejected by offset."""
    told = capture(name)
    registry = Registry(dict(told.schemas)) if "avro" in name else None
    decoder = DebeziumDecoder(DebeziumSettings(registry=registry))
    rows: Rows = {}
    codes: dict[int, str] = {}
    for raw in batches(told, table, size):
        decoded = decoder.decode(raw)
        applied(decoded, rows)
        codes |= {int(raw.offset[reject.index]): reject.code for reject in decoded.rejects}
    return rows, codes


def shown(name: str, table: str) -> list[dict[str, Any]]:
    """The rows of a table as its database showed them at the end, as values."""
    told: Shown = capture(name).shows[table]
    columns = list(told.columns.items())
    return [
        {column: valued(kind, text) for (column, kind), text in zip(columns, row, strict=True)} for row in told.rows
    ]


def valued(kind: str, text: str | None) -> Any:
    """A value from its text in PostgreSQL, as a column holds it."""
    if text is None or "infinity" in text:
        return None
    if kind.endswith("[]"):
        return [item.strip('"') for item in text[1:-1].split(",") if item]
    if kind in {"integer", "bigint", "smallint"}:
        return int(text)
    if kind.startswith("numeric"):
        return None if text == "NaN" else Decimal(text)
    if kind == "date":
        return dt.date.fromisoformat(text)
    if kind.startswith("time") and "with time zone" in kind and "stamp" in kind:
        return dt.datetime.fromisoformat(f"{text}:00")
    if kind.startswith("timestamp"):
        return dt.datetime.fromisoformat(text)
    if kind.startswith("time") and "with time zone" not in kind:
        return dt.time.fromisoformat(text)
    return text


def like(value: Any, wanted: Any) -> Any:
    """A column's value as one of the wanted type."""
    return Decimal(value) if isinstance(wanted, Decimal) and isinstance(value, str) else value


FLOWS = ["text-json", "all-json", "precise-schemas", "unwrapped-json"]
TABLES = {"shop.orders": ["id"], "shop.pairs": ["region", "number"], "shop.full_rows": ["id"], "shop.people": ["uid"]}
CASES = [(flow, table) for flow in FLOWS for table in TABLES]
CASES.remove(("unwrapped-json", "shop.pairs"))  # flat events tell nothing of truncations


@pytest.mark.parametrize("size", [1_000, 5])
@pytest.mark.parametrize(("flow", "table"), CASES)
def test_a_captured_workload_leaves_the_rows_that_its_database_showed(flow: str, table: str, size: int) -> None:
    rows, codes = mirrored(f"postgres-flow-{flow}", table, size)
    assert codes == {}
    wanted = {tuple(row[name] for name in TABLES[table]): row for row in shown(f"postgres-flow-{flow}", table)}
    assert set(rows) == set(wanted)
    for key, row in wanted.items():
        found = rows[key]
        if found.get("quantity") is None and "qty" in found:  # renamed: no event tells this of rows that stay
            found["quantity"] = found["qty"]
        assert {name: like(found.get(name), value) for name, value in row.items()} == row


PRECISIONS = ["adaptive", "adaptive_time_microseconds", "connect", "isostring", "microseconds", "nanoseconds"]
TIMES = ["moment", "day", "clock", "clock3", "local", "local0", "local3", "moment3"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_dates_and_times_are_what_the_database_showed_whatever_their_precision(precision: str) -> None:
    name = f"postgres-times-{precision}-schemas"
    rows, codes = mirrored(name, "shop.times")
    assert codes == {}
    for row in shown(name, "shop.times"):
        found = rows[row["moment"],]
        for column in TIMES:
            value, wanted = found[column], row[column]
            if precision == "connect" and isinstance(wanted, dt.datetime | dt.time) and wanted.tzinfo is None:
                wanted = wanted.replace(microsecond=wanted.microsecond // 1000 * 1000)  # all that the event tells
            if precision == "nanoseconds" and isinstance(wanted, dt.datetime) and wanted.year == 9999 and not value:
                continue  # beyond what 64 bits of nanoseconds hold: the event says null
            assert value == wanted, column


@pytest.mark.parametrize("form", ["schemas", "avro"])
def test_numbers_are_exact_where_the_event_tells_them_exactly(form: str) -> None:
    name = f"postgres-amounts-precise-{form}"
    rows, codes = mirrored(name, "shop.amounts")
    assert codes == {}
    wanted = {row["id"]: row for row in shown(name, "shop.amounts")}
    assert {key for (key,) in rows} == set(wanted)
    for (key,), row in rows.items():
        assert isinstance(row["fixed"], Decimal | None)
        assert [row["fixed"], row["wide"]] == [wanted[key]["fixed"], wanted[key]["wide"]]
        assert like(row["free"], wanted[key]["free"]) == wanted[key]["free"]


def test_rows_of_all_types_come_whole_or_are_refused_by_name() -> None:
    rows, codes = mirrored("postgres-kinds-precise-schemas", "shop.kinds")
    assert set(codes.values()) == {"out-of-range", "invalid-timestamp"}  # 24:00:00, and years before the first
    row = rows[1,]
    assert row["raw"] == b"\0\1\xff\x80"
    assert row["fixeds"] == [Decimal("1.25"), Decimal("-0.50")]
    assert row["dates"] == [dt.date(2024, 2, 29)]
    assert row["spot"][:5] == b"\1\1\0\0\0"
    assert row["bits"] == b"\1\5"
    assert row["doc"] == '{"z": 1.50, "a": [1, null]}'


DOCUMENTS = ["full-json", "imaged-json", "full-schemas", "unwrapped-json"]


@pytest.mark.parametrize("flow", DOCUMENTS)
def test_captured_documents_leave_the_documents_that_their_database_showed(flow: str) -> None:
    name = f"mongodb-flow-{flow}"
    rows, codes = mirrored(name, "shop.imaged")
    assert codes == {}
    wanted = [value_of((row[0] or "").encode()) for row in capture(name).shows["shop.imaged"].rows]
    assert {key for (key,) in rows} == {document["_id"] for document in wanted}
    for document in wanted:
        row = rows[document["_id"],]
        told = {field: value for field, value in document.items() if value is not None}
        assert {field for field, value in row.items() if value is not None} == set(told)
        plain = json.loads(json.dumps(told))
        assert {field: row[field] for field in plain if type(row[field]) is str} == {
            field: value for field, value in plain.items() if type(row[field]) is str
        }


def test_updates_inside_fields_are_refused_and_all_others_keep_what_they_do_not_name() -> None:
    rows, codes = mirrored("mongodb-flow-bare-json", "shop.orders")
    assert set(codes.values()) == {"partial-update"}
    assert rows["65f000000000000000000003",]["title"] == "customer 3"
    assert rows["65f000000000000000000003",]["tags"] == ["x"]
    assert rows["65f000000000000000000003",]["total"] == "3.50"
    assert rows["65f000000000000000000003",]["name"] is None


def test_a_field_of_several_types_becomes_text() -> None:
    rows, codes = mirrored("mongodb-kinds-full-json", "shop.mixed")
    assert codes == {}
    assert [rows[i,]["v"] for i in (1, 3, 4, 7, 8, 10)] == ["1", "three", "4.5", '{"a":1}', '[1,"x"]', "true"]
