"""Avro values as JSON text: what a column of a record inside itself holds. The rules are told in docs/avro.md."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lakeward.decoding.avro_types import Array, Decimal, Fixed, Itself, Map, Node, OneOf, Record, Scalar, Union

SECOND, MINUTE, HOUR = 1_000_000, 60, 3_600
ZONED = {"timestamp-millis", "timestamp-micros"}
LOCAL = {"local-timestamp-millis", "local-timestamp-micros"}


class TextWriter:
    """Writes values of one schema.

    Args:
        records: the schema's records by full name.
    """

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._records = records

    def text(self, node: Node, value: Any) -> str:
        """Write ``value`` of ``node``, without white space.

        Values are as the columns hold them: times and timestamps as microseconds, dates as days since 1970, decimals
        exact, maps as pairs, a union of several types as a mapping with the one member that is there.
        """
        return json.dumps(self._plain(node, value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    def _plain(self, node: Node, value: Any) -> Any:  # noqa: C901, PLR0911 - one case a type
        match node:
            case Union(inner):
                return None if value is None else self._plain(inner, value)
            case OneOf(branches):
                types = {branch.name: branch.type for branch in branches if branch is not None}
                return None if value is None else {name: self._plain(types[name], one) for name, one in value.items()}
            case Record(()):
                return {}
            case Record(fields):
                return {member.name: self._plain(member.type, value[member.name]) for member in fields}
            case Itself(name):
                return self._plain(self._records[name], value)
            case Array(items):
                return [self._plain(items, item) for item in value]
            case Map(values):
                return {key: self._plain(values, one) for key, one in value}
            case Scalar("bytes") | Fixed():
                return base64.b64encode(value).decode()
            case Decimal():
                return format(value, "f")
            case Scalar(kind):
                return _scalar(kind, value)
            case _:  # enums, uuids, durations
                return value


def _scalar(kind: str, value: Any) -> Any:
    if kind in {"float", "double"} and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if kind == "date":
        return str(np.datetime64(value, "D"))
    if kind.startswith("time-"):
        seconds, micros = divmod(value, SECOND)
        return f"{seconds // HOUR:02}:{seconds // MINUTE % MINUTE:02}:{seconds % MINUTE:02}{_fraction(micros)}"
    if kind in ZONED | LOCAL:
        seconds, micros = divmod(value, SECOND)
        return f"{np.datetime64(seconds, 's')}{_fraction(micros)}{'Z' if kind in ZONED else ''}"
    return value


def _fraction(micros: int) -> str:
    return f".{micros:06}" if micros else ""
