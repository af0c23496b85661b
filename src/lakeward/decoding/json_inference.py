"""Fields from records: what a topic of JSON holds when nobody has declared it (docs/json.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lakeward.decoding.json_reference import Number, Whole, fits_long
from lakeward.decoding.json_types import Field, FieldType, Kind

TEXT = FieldType(Kind.TEXT)
LONG = FieldType(Kind.LONG)
DOUBLE = FieldType(Kind.DOUBLE)
BOOLEAN = FieldType(Kind.BOOLEAN)
NOTHING = FieldType(Kind.NULL)
A_DOUBLE = Number("0.5")
SPECIAL = frozenset({"NaN", "Infinity", "-Infinity"})
"""Words for numbers that JSON has none for."""
EXACT_IN_DOUBLE = 2**53
MOST_FIELDS = 1_000
"""A record has at most so many fields of its own."""
MOST_MEMBERS = 100
"""An object inside a record has at most so many members, or it is text."""


class Typed(str):
    """A string that stands for a value of another type, as its source tells."""

    __slots__ = ("type",)
    type: FieldType

    @classmethod
    def of(cls, text: str, kind: FieldType) -> Typed:
        """``text``, which stands for a value of ``kind``."""
        made = cls(text)
        made.type = kind
        return made


def infer(records: Iterable[Mapping[str, Any]]) -> tuple[Field, ...]:
    """Return the fields of ``records``, parsed by `json_reference.parse`, in the order in which they first appear."""
    return extend((), records)


def extend(
    fields: Sequence[Field],
    records: Iterable[Mapping[str, Any]],
    grows: Callable[[str], bool] = lambda _: True,
    most: int = MOST_FIELDS,
) -> tuple[Field, ...]:
    """Return ``fields`` and, behind them, what ``records`` hold besides; types that are known stay what they are.

    Args:
        fields: those that are known; objects, and objects in arrays and maps, get their new members too.
        records: parsed by `json_reference.parse`.
        grows: whether a field of this name may be added, or get members; one that may not is known to be null.
        most: no field is added beyond so many.
    """
    known = {field.name: field.type.kind is not Kind.NULL for field in fields}
    values: dict[str, list[Any]] = {field.name: [] for field in fields}
    for record in records:
        for name, value in record.items():
            if name in values or len(values) < most:
                values.setdefault(name, []).append(value)
    kept = [
        Field(field.name, _extended(field.type, values[field.name])) if grows(field.name) else field
        for field in fields
        if known[field.name] or all(value is None for value in values[field.name])
    ]
    unknown = [name for name in values if not known.get(name)]
    named = {field.name for field in kept}
    unknown = [name for name in unknown if name not in named]
    return (*kept, *(Field(name, _type_of(values[name]) if grows(name) else NOTHING) for name in unknown))


def merge(fields: Sequence[Field], others: Sequence[Field]) -> tuple[Field, ...]:
    """Return ``fields`` and, behind them, those of ``others`` with names that they lack; inside objects too."""
    named = {field.name: field.type for field in others}
    kept = [
        Field(field.name, _merged(field.type, named[field.name])) if field.name in named else field for field in fields
    ]
    return (*kept, *(field for field in others if field.name not in {known.name for known in fields}))


def _merged(known: FieldType, other: FieldType) -> FieldType:
    if known.kind is Kind.NULL:
        return other
    if known.kind is not other.kind:
        return known
    if known.kind is Kind.STRUCT:
        return FieldType(Kind.STRUCT, members=merge(known.members, other.members))
    if known.element is not None and other.element is not None:
        return FieldType(known.kind, element=_merged(known.element, other.element))
    return known


def _extended(known: FieldType, values: Sequence[Any]) -> FieldType:
    if known.kind is Kind.STRUCT:
        objects = [value for value in values if isinstance(value, dict)]
        return FieldType(Kind.STRUCT, members=extend(known.members, objects, most=MOST_MEMBERS))
    if known.kind is Kind.LIST and known.element is not None:
        items = [item for value in values if isinstance(value, list) for item in value]
        return FieldType(Kind.LIST, element=_extended(known.element, items))
    if known.kind is Kind.MAP and known.element is not None:
        items = [item for value in values if isinstance(value, dict) for item in value.values()]
        return FieldType(Kind.MAP, element=_extended(known.element, items))
    return known


def _type_of(values: Sequence[Any]) -> FieldType:
    present = [value for value in values if value is not None]
    if any(isinstance(value, Number) for value in present):
        present = [A_DOUBLE if isinstance(value, Typed) and value in SPECIAL else value for value in present]
    if not present:
        return NOTHING
    if all(isinstance(value, bool) for value in present):
        return BOOLEAN
    if all(isinstance(value, Number) for value in present):
        return _number(present)
    if all(isinstance(value, list) for value in present):
        element = _type_of([item for value in present for item in value])
        return FieldType(Kind.LIST, element=TEXT if element is NOTHING else element)
    if all(isinstance(value, dict) for value in present):
        return _object(present)
    told = {value.type if isinstance(value, Typed) else TEXT for value in present}
    return told.pop() if len(told) == 1 else TEXT


def _object(objects: Sequence[Mapping[str, Any]]) -> FieldType:
    if len({name for value in objects for name in value}) > MOST_MEMBERS:
        return TEXT
    members = infer(objects)
    if all(member.type is NOTHING for member in members):
        return TEXT
    return FieldType(Kind.STRUCT, members=members)


def _number(numbers: Sequence[Number]) -> FieldType:
    whole = [number for number in numbers if isinstance(number, Whole)]
    if len(whole) == len(numbers):
        return LONG if all(map(fits_long, whole)) else TEXT
    exact = all(fits_long(number) and abs(int(number)) <= EXACT_IN_DOUBLE for number in whole)
    return DOUBLE if exact and not any(math.isinf(float(number)) for number in numbers) else TEXT
