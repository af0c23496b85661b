"""Fields from a sample of records: what a topic of JSON holds when nobody has declared it (docs/json.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lakeward.decoding.json_fields import Field, FieldType, Kind
from lakeward.decoding.json_reference import Number, Whole, fits_long

TEXT = FieldType(Kind.TEXT)
LONG = FieldType(Kind.LONG)
DOUBLE = FieldType(Kind.DOUBLE)
BOOLEAN = FieldType(Kind.BOOLEAN)
EXACT_IN_DOUBLE = 2**53


def infer(records: Iterable[Mapping[str, Any]]) -> tuple[Field, ...]:
    """Return the fields of ``records``, parsed by `json_reference.parse`, in the order in which they first appear."""
    seen: dict[str, list[Any]] = {}
    for record in records:
        for name, value in record.items():
            seen.setdefault(name, []).append(value)
    return tuple(Field(name, _type_of(values)) for name, values in seen.items())


def _type_of(values: Sequence[Any]) -> FieldType:
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, bool) for value in present):
        return BOOLEAN
    if present and all(isinstance(value, Number) for value in present):
        return _number(present)
    if present and all(isinstance(value, list) for value in present):
        return FieldType(Kind.LIST, element=_type_of([item for value in present for item in value]))
    if any(present) and all(isinstance(value, dict) for value in present):
        return FieldType(Kind.STRUCT, members=infer(present))
    return TEXT


def _number(numbers: Sequence[Number]) -> FieldType:
    whole = [number for number in numbers if isinstance(number, Whole)]
    if len(whole) == len(numbers):
        return LONG if all(map(fits_long, whole)) else TEXT
    exact = all(fits_long(number) and abs(int(number)) <= EXACT_IN_DOUBLE for number in whole)
    return DOUBLE if exact and not any(math.isinf(float(number)) for number in numbers) else TEXT
