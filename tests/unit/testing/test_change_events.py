"""Made-up change events have the shape of those that a real Debezium wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fixtures.captures import capture

from lakeward.testing.change_events import Event, MongoCollection, PostgresTable


def shape(value: Any) -> Any:
    """The names in a document, in order; values are left out, and so are the rows themselves."""
    if not isinstance(value, dict):
        return None
    return [(name, shape(one) if name in {"source", "updateDescription"} else None) for name, one in value.items()]


def captured(name: str, topic: str) -> dict[str, Any]:
    """One event of each operation."""
    values = [json.loads(one.value) for one in capture(name).events if one.value and one.topic.endswith(topic)]
    return {value["op"]: value for value in reversed(values)}


@pytest.mark.parametrize(
    ("made", "name", "topic"),
    [
        (PostgresTable(1), "postgres-flow-text-json", ".orders"),
        (MongoCollection(1), "mongodb-flow-full-json", ".orders"),
    ],
)
def test_events_have_the_names_of_real_ones_in_their_order(
    made: PostgresTable | MongoCollection, name: str, topic: str
) -> None:
    events = [*made.snapshot(5), *made.changes(200)]
    values = {value["op"]: value for value in (json.loads(one.value) for one in events if one.value)}
    real = captured(name, topic)
    assert {op: shape(value) for op, value in values.items() if op in real} == {
        op: shape(value) for op, value in real.items() if op in values
    }
    assert {"r", "c", "u", "d"} <= set(values)


def test_keys_and_documents_are_written_as_real_ones() -> None:
    real = capture("mongodb-flow-full-json").events[0]
    made = MongoCollection(1).snapshot(1)[0]
    assert real.key is not None
    assert json.loads(json.loads(made.key or b"")["id"]) == json.loads(json.loads(real.key)["id"])
    assert made.key == real.key
    assert json.loads(made.value or b"")["after"].startswith('{"_id": {"$oid": "65f000000000000000000001"},"name": "')


def test_a_changed_key_is_a_deletion_a_tombstone_and_a_creation_that_name_each_other() -> None:
    table = PostgresTable(3)
    table.snapshot(20)
    events = list(table.changes(300))
    at = next(k for k, one in enumerate(events) if "__debezium.newkey" in one.headers)
    gone, tombstone, created = events[at : at + 3]
    assert (tombstone.key, tombstone.value) == (gone.key, None)
    assert gone.headers == tombstone.headers == {"__debezium.newkey": created.key}
    assert created.headers == {"__debezium.oldkey": gone.key}


def test_rows_are_what_the_events_leave() -> None:
    table = PostgresTable(4)
    rows: dict[int, dict[str, Any]] = {}
    for event in [*table.snapshot(10), *table.changes(500), table.truncate(), *table.changes(50)]:
        _apply(rows, event)
    rows.pop(-1, None)
    assert rows == table.rows


def _apply(rows: dict[int, dict[str, Any]], event: Event) -> None:
    if event.value is None:
        return
    value = json.loads(event.value)
    if value["op"] == "t":
        rows.clear()
    elif value["op"] == "d":
        gone = rows.pop(value["before"]["id"])
        rows[-1] = gone  # what a changed key leaves out
    else:
        after = value["after"]
        old = rows.pop(-1, {}) if "__debezium.oldkey" in event.headers else rows.get(after["id"], {})
        rows[after["id"]] = {
            name: old[name] if one == "__debezium_unavailable_value" else one for name, one in after.items()
        }
    if value["op"] != "d":
        rows.pop(-1, None)
