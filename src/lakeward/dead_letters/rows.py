"""What a dead-letter table holds: its columns, and the rows that the loop and a replay write into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.letters import Letters
from lakeward.metadata_columns import values_of
from lakeward.records import RawBatch, Reject


class Kind(StrEnum):
    """What a row says."""

    LETTER = "letter"
    """This record could not become a row of ``table``. Counts when its ``batch`` is in that table (PROTOCOL D2)."""
    CONFIRMED = "confirmed"
    """The commit ``batch`` was in ``table`` as entry ``number``."""
    REPLAY = "replay"
    """The letter of the same place in the commit ``letter`` is a row now. Counts when its ``batch`` is in the table."""
    FAILED = "failed"
    """The letter of the same place in the commit ``letter`` was tried again in vain."""


HEADERS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))
MOMENT = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("table", pa.string()),
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", MOMENT),
        ("code", pa.string()),
        ("message", pa.string()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", HEADERS),
        ("bytes", pa.int64()),
        ("schema_id", pa.int64()),
        ("seen_at", MOMENT),
        ("pipeline", pa.string()),
        ("topic_id", pa.string()),
        ("batch", pa.string()),
        ("letter", pa.string()),
        ("number", pa.int64()),
        ("line", pa.string()),
    ]
)
"""The columns, all optional. They never change: no producer has a say in them.

``bytes`` is the size of key and value; ``schema_id`` is what a damaged record says that it is: any 32 bits.
"""
PLACE = ("topic", "partition", "offset")
"""Where a record was; with the commit that brought the letter, this is the letter's name."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose letters these are: a pipeline's, of one table."""

    pipeline: str
    table: str


def letters_of(raw: RawBatch, rejects: Iterable[Reject], now_ms: int) -> pa.Table:
    """The rejected messages of ``raw`` as letters; whose they are, and which commit they belong to, is added later."""
    ordered = sorted(rejects, key=lambda reject: reject.index)
    rows = raw.select(np.asarray([reject.index for reject in ordered], np.int64))
    columns: dict[str, Any] = {
        **{name: values_of(name, rows) for name in ("topic", "partition", "offset", "timestamp", "key")},
        "code": [reject.code for reject in ordered],
        "message": [reject.reason for reject in ordered],
        "value": values_of("value", rows),
        "bytes": pa.array(np.maximum(rows.keys.length, 0).astype(np.int64) + np.maximum(rows.values.length, 0)),
        "headers": [_headers(pairs) for pairs in rows.headers] if rows.headers is not None else None,
        "schema_id": [reject.schema_id for reject in ordered],
        "seen_at": [now_ms * 1000] * len(ordered),
    }
    return _table(len(ordered), columns)


def sealed(letters: pa.Table, owner: Owner, batch: str, topic_ids: Mapping[str, str | None]) -> pa.Table:
    """``letters`` with all that was not known when they were taken: they belong to the commit ``batch``."""
    ids = [topic_ids.get(topic) for topic in letters.column("topic").to_pylist()]
    return _with(letters, _owned(Kind.LETTER, owner), {"batch": [batch] * len(letters), "topic_id": ids})


def confirmations(letters: Letters, owner: Owner) -> pa.Table:
    """The commits that ``letters`` still has to name, so that it need not any more (PROTOCOL D1)."""
    commits, numbers = list(letters.open), list(letters.open.values())
    table = _table(len(commits), {"batch": commits, "number": numbers, "line": [letters.line] * len(commits)})
    return _with(table, _owned(Kind.CONFIRMED, owner), {})


def replayed(places: pa.Table, owner: Owner, batch: str) -> pa.Table:
    """The commit ``batch`` brings these letters back; ``places`` has PLACE and ``batch``, that of the letter."""
    columns = {name: places.column(name) for name in PLACE}
    table = _table(len(places), {**columns, "letter": places.column("batch"), "batch": [batch] * len(places)})
    return _with(table, _owned(Kind.REPLAY, owner), {})


def failed(places: pa.Table, owner: Owner, rejects: Iterable[Reject], now_ms: int) -> pa.Table:
    """These letters were tried again in vain; ``rejects`` say why, in the order of ``places``."""
    reasons = list(rejects)
    columns: dict[str, Any] = {name: places.column(name) for name in PLACE}
    columns |= {
        "letter": places.column("batch"),
        "code": [reject.code for reject in reasons],
        "message": [reject.reason for reject in reasons],
        "schema_id": [reject.schema_id for reject in reasons],
        "seen_at": [now_ms * 1000] * len(reasons),
    }
    return _with(_table(len(reasons), columns), _owned(Kind.FAILED, owner), {})


def _owned(kind: Kind, owner: Owner) -> Mapping[str, str]:
    return {"kind": kind.value, "table": owner.table, "pipeline": owner.pipeline}


def _table(count: int, columns: Mapping[str, Any]) -> pa.Table:
    arrays = []
    for field in SCHEMA:
        values = columns.get(field.name)
        arrays.append(pa.nulls(count, field.type) if values is None else _array(values, field.type))
    return pa.table(arrays, schema=SCHEMA)


def _array(values: Any, kind: pa.DataType) -> Any:
    return pa.array(values, kind) if isinstance(values, list) else values.cast(kind)


def _with(table: pa.Table, same: Mapping[str, str], columns: Mapping[str, list[Any]]) -> pa.Table:
    """``table`` with these columns set, those of ``same`` to one value."""
    for name, values in {**{key: [value] * len(table) for key, value in same.items()}, **columns}.items():
        index = SCHEMA.get_field_index(name)
        table = table.set_column(index, SCHEMA.field(index), pa.array(values, SCHEMA.field(index).type))
    return table


def _headers(pairs: Iterable[tuple[str, bytes | None]]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in pairs]
