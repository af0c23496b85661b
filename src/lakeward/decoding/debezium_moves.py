"""The former keys of rows whose key was changed: Debezium tells them in a header of the event that creates the row."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.records import DecodedPart, RawBatch

OLD_KEY = "__debezium.oldkey"


def with_former_keys(part: DecodedPart, raw: RawBatch) -> DecodedPart:
    """``part`` with the former keys of rows that leave something out; headers of no other message are looked at."""
    changes = part.changes
    if changes is None or raw.headers is None or not changes.key or not changes.absent:
        return part
    lacking = np.flatnonzero(np.logical_or.reduce(list(changes.absent.values())))
    former: dict[int, dict[str, Any]] = {}
    for at, headers in zip(lacking.tolist(), raw.select(part.index[lacking]).headers or (), strict=True):
        text = dict(headers).get(OLD_KEY)
        key = None if text is None else _key(text)
        if key is not None and all(key.get(name) is not None for name in changes.key):
            former[at] = key
    if not former:
        return part
    columns = {}
    for name in changes.key:
        values = [former[at][name] if at in former else None for at in range(len(part.index))]
        try:
            columns[name] = _typed(values, part.rows.schema.field(name).type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # what it held is unknown then, and told as such
            return part
    return replace(part, changes=replace(changes, former=pa.table(columns)))


def _key(text: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(text)
    except ValueError:
        return None
    if isinstance(told, dict) and set(told) == {"schema", "payload"}:
        told = told["payload"]
    return told if isinstance(told, dict) else None


def _typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        texts = pa.array([None if value is None else str(value) for value in values], pa.string())
        return texts.cast(kind)
