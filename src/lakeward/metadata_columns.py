"""Columns that hold what the source knows of a record rather than what the record says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from lakeward.changes import Changes, Effect, Events
from lakeward.records import DecodedPart, RawBatch

HEADER_PREFIX = "header."
TYPES: Mapping[str, pa.DataType] = {
    "key": pa.binary(),
    "topic": pa.string(),
    "partition": pa.int32(),
    "offset": pa.int64(),
    "timestamp": pa.timestamp("us", "UTC"),
    "ingestion_time": pa.timestamp("us", "UTC"),
    "operation": pa.string(),
    "source_timestamp": pa.timestamp("us", "UTC"),
    "source_timestamp_ms": pa.int64(),
    "source_position": pa.string(),
}
"""What a column may hold, and its Arrow type; ``header.NAME`` is binary: the last header of that name."""
CHANGE_KINDS = frozenset({"operation", "source_timestamp", "source_timestamp_ms", "source_position"})
"""What only change events tell; null in the rows of other records."""
INGESTION = "ingestion_time"
"""The one kind that the stream does not tell: when lakeward took the record."""


def with_metadata(part: DecodedPart, raw: RawBatch, columns: Mapping[str, str], now_ms: int) -> pa.Table:
    """The rows of ``part``, which came from ``raw``, and behind them ``columns`` (name: what it holds).

    ``now_ms``: milliseconds since the epoch, the time of ingestion.
    """
    rows, whole = part.rows, len(part.index) == len(raw)
    for name, kind in columns.items():
        if kind in CHANGE_KINDS:
            values = _told_by(part.events, kind, len(rows))
        elif kind == INGESTION:
            values = pa.repeat(pa.scalar(now_ms * 1000, TYPES[INGESTION]), len(rows))
        else:
            values = values_of(kind, raw if whole else raw.select(part.index))
        rows = rows.append_column(pa.field(name, type_of(kind)), values)
    return rows


def changed(part: DecodedPart, columns: Mapping[str, str]) -> Changes | None:
    """What the rows of `with_metadata` change: those that only mark leave alone what their events do not tell.

    A tombstone behind a deletion marks the row once more, and knows neither when nor where that was.
    """
    changes, events = part.changes, part.events
    if changes is None or events is None or not (marks := changes.effect == Effect.MARK).any():
        return changes
    absent = dict(changes.absent)
    for name, kind in columns.items():
        if kind in CHANGE_KINDS:
            untold = marks & _told_by(events, kind, len(marks)).is_null().to_numpy(zero_copy_only=False)
            if untold.any():
                absent[name] = untold
    return replace(changes, absent=absent)


def _told_by(events: Events | None, kind: str, rows: int) -> pa.Array:
    if events is None:
        return pa.nulls(rows, TYPES[kind])
    if kind == "source_timestamp_ms":
        return events.source_timestamp.cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64())
    return getattr(events, kind)


def type_of(kind: str) -> pa.DataType:
    """The Arrow type of a metadata column that holds ``kind``."""
    return pa.binary() if kind.startswith(HEADER_PREFIX) else TYPES[kind]


def values_of(kind: str, raw: RawBatch) -> pa.Array:
    """What every message of ``raw`` has for ``kind``: one of TYPES, ``value``, or a header."""
    if kind == "topic":
        return pa.DictionaryArray.from_arrays(np.zeros(len(raw), np.int8), [raw.topic]).cast(pa.string())
    if kind == "partition":
        return pa.array(raw.partition)
    if kind == "offset":
        return pa.array(raw.offset)
    if kind == "timestamp":
        return pa.array(raw.timestamp * 1000, mask=raw.timestamp < 0).cast(TYPES["timestamp"])
    if kind in {"key", "value"}:
        return (raw.keys if kind == "key" else raw.values).to_arrow()
    wanted = kind.removeprefix(HEADER_PREFIX)
    headers = raw.headers or [()] * len(raw)
    return pa.array([dict(pairs).get(wanted) for pairs in headers], pa.binary())
