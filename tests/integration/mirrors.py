"""Is a table a mirror of its source? Each value is compared as what it means, whatever wrote it down."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from tests.fixtures.captures import Shown

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DAY = dt.timedelta(days=1)
_MICROSECOND = dt.timedelta(microseconds=1)
_SHOWN_DIFFERENCES = 8


def differences(wanted: Shown, held: pa.Table) -> str:
    """How a table of ``held`` rows differs from what PostgreSQL shows, as text for people; empty where it does not.

    Columns that only the table has (dropped ones, and what it knows of the events) are not looked at.
    """
    if missing := [name for name in wanted.columns if name not in held.column_names and _any(wanted, name)]:
        return f"columns are missing: {missing}"
    columns = [name for name in wanted.columns if name in held.column_names]
    kinds = [wanted.columns[name] for name in columns]
    places = [list(wanted.columns).index(name) for name in columns]
    expected = [[meaning(row[at], kind) for at, kind in zip(places, kinds, strict=True)] for row in wanted.rows]
    values = [held[name].to_pylist() for name in columns]
    there = [[meaning(v, kind) for v, kind in zip(row, kinds, strict=True)] for row in zip(*values, strict=True)]
    return _compared(columns, wanted.key, expected, there)


def meaning(value: Any, kind: str) -> Any:
    """What ``value`` of the PostgreSQL type ``kind`` means, whether psql shows it or a table holds it."""
    if value is None:
        return None
    if kind.endswith("[]"):
        items = value if isinstance(value, list) else _items(value)
        return [meaning(item, kind.removesuffix("[]")) for item in items]
    name = re.sub(r"\(.*?\)", "", kind)
    return _MEANINGS[name](value) if name in _MEANINGS else value


def _any(wanted: Shown, name: str) -> bool:
    at = list(wanted.columns).index(name)
    return any(row[at] is not None for row in wanted.rows)


def _compared(columns: Sequence[str], key: Sequence[str], expected: list[list[Any]], there: list[list[Any]]) -> str:
    at = [list(columns).index(name) for name in key]
    wanted, found = ({repr([row[i] for i in at]): row for row in rows} for rows in (expected, there))
    lines = [f"{len(there)} rows have {len(found)} keys"] if len(found) != len(there) else []
    lines += [f"missing: {one}" for one in sorted(wanted.keys() - found.keys())]
    lines += [f"too many: {one}" for one in sorted(found.keys() - wanted.keys())]
    for one in sorted(wanted.keys() & found.keys()):
        different = [
            f"{name}: {_brief(found[one][i])} and not {_brief(wanted[one][i])}"
            for i, name in enumerate(columns)
            if repr(found[one][i]) != repr(wanted[one][i])
        ]
        if different:
            lines.append(f"changed: {one}: {'; '.join(different)}")
    if len(lines) > _SHOWN_DIFFERENCES:
        lines = [*lines[:_SHOWN_DIFFERENCES], f"and {len(lines) - _SHOWN_DIFFERENCES} more"]
    return "\n".join(lines)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:70]}… ({len(text)} characters)"


def _items(text: str) -> list[str | None]:
    """The items of an array of plain words as psql shows it."""
    words = text.strip("{}")
    return [None if word == "NULL" else word.strip('"') for word in words.split(",")] if words else []


def _number(value: Any) -> str:
    number = Decimal(str(value).replace("$", "").replace(",", ""))
    return "0" if number == 0 else f"{number.normalize():f}"


def _boolean(value: Any) -> bool:
    return value in {True, "t"}


def _day(value: Any) -> int:
    if isinstance(value, str):
        value = dt.date.fromisoformat(value)
    return (value - _EPOCH.date()) // _DAY if isinstance(value, dt.date) else int(value)


def _moment(value: Any) -> int:
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value)
    if isinstance(value, dt.datetime):
        value = value.replace(tzinfo=value.tzinfo or dt.UTC)
        return (value - _EPOCH) // _MICROSECOND
    return int(value)


def _clock(value: Any) -> int:
    if isinstance(value, str):
        value = dt.time.fromisoformat(value)
    if not isinstance(value, dt.time):
        return int(value)
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return bytes.fromhex(value[2:]) if value.startswith("\\x") else base64.b64decode(value)
    return bytes(value)


def _single(value: Any) -> float:
    return float(np.float32(value))


def _uuid(value: Any) -> str:
    return str(uuid.UUID(bytes=value) if isinstance(value, bytes) else value)


_MEANINGS: Mapping[str, Callable[[Any], Any]] = {
    "smallint": int,
    "integer": int,
    "bigint": int,
    "real": _single,
    "double precision": float,
    "numeric": _number,
    "money": _number,
    "boolean": _boolean,
    "date": _day,
    "timestamp without time zone": _moment,
    "timestamp with time zone": _moment,
    "time without time zone": _clock,
    "bytea": _bytes,
    "uuid": _uuid,
    "jsonb": json.loads,
}
