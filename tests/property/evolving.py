"""Random histories of a schema, and what a table must hold afterwards: dicts, and no code of the product.

A column is a thing of its own here (`Column`), whatever it is called and whatever its type has grown to. Each version
of the schema is a list of such columns as a writer of that version knows them. Rows are made for a version, and
remember their values by column; so what a table should say at any snapshot can be told from the columns it has by then.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import count
from typing import Any

import pyarrow as pa

CHAINS: tuple[tuple[pa.DataType, ...], ...] = (
    (pa.int32(), pa.int64()),
    (pa.float32(), pa.float64()),
    (pa.decimal128(6, 2), pa.decimal128(9, 2), pa.decimal128(20, 2)),
    (pa.string(),),
    (pa.bool_(),),
    (pa.date32(),),
    (pa.timestamp("us", "UTC"),),
    (pa.binary(),),
)
"""Types that a column may grow through, from left to right."""

Row = dict[int, Any]
"""A writer's values by `Column.number`."""


@dataclass(frozen=True)
class Scalar:
    """A type of one of `CHAINS`."""

    chain: int
    step: int = 0


@dataclass(frozen=True)
class Struct:
    """Columns within a column."""

    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Items:
    """A list, or a map from texts."""

    item: Scalar | Struct | Items
    keyed: bool


Kind = Scalar | Struct | Items


@dataclass(frozen=True)
class Column:
    """``names``: all that it had, the current one last."""

    number: int
    names: tuple[str, ...]
    kind: Kind
    required: bool


@dataclass
class History:
    """Versions of a schema, each made from the one before."""

    chance: random.Random
    versions: list[tuple[Column, ...]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        key = Column(next(self._numbers), ("n",), Scalar(0, 1), required=True)
        self.versions.append((key, *(self._column(0) for _ in range(4))))

    def evolve(self) -> None:
        """Add a version with one to three changes."""
        columns = self.versions[-1]
        for _ in range(self.chance.randint(1, 3)):
            key, *rest = columns
            columns = (key, *self._changed(tuple(rest), 0))
        self.versions.append(columns)

    def _column(self, depth: int) -> Column:
        number = next(self._numbers)
        return Column(number, (f"c{number}",), self._kind(depth), required=self.chance.random() < 0.3)

    def _kind(self, depth: int) -> Kind:
        pick = self.chance.random()
        if depth < 2 and pick < 0.2:
            return Struct(tuple(self._column(depth + 1) for _ in range(self.chance.randint(1, 3))))
        if depth < 2 and pick < 0.4:
            return Items(self._kind(depth + 1), keyed=self.chance.random() < 0.5)
        return Scalar(self.chance.randrange(len(CHAINS)))

    def _changed(self, columns: tuple[Column, ...], depth: int) -> tuple[Column, ...]:
        what = self.chance.choice(["add", "add", "drop", "rename", "widen", "widen", "relax", "shuffle", "inside"])
        if what == "add" or not columns:
            return (*columns, self._column(depth))
        if what == "shuffle":
            return tuple(self.chance.sample(columns, len(columns)))
        at = self.chance.randrange(len(columns))
        column = columns[at]
        if what == "drop":
            return (*columns[:at], *columns[at + 1 :]) if len(columns) > 1 else columns
        if what == "rename":
            column = replace(column, names=(*column.names, f"{column.names[0]}_{len(column.names)}"))
        elif what == "relax":
            column = replace(column, required=False)
        else:
            column = replace(column, kind=self._grown(column.kind, depth))
        return (*columns[:at], column, *columns[at + 1 :])

    def _grown(self, kind: Kind, depth: int) -> Kind:
        match kind:
            case Scalar(chain, step):
                return Scalar(chain, min(step + 1, len(CHAINS[chain]) - 1))
            case Struct(columns):
                return Struct(self._changed(columns, depth + 1))
            case Items(item, keyed):
                return Items(self._grown(item, depth + 1), keyed)

    def rows(self, version: int, numbers: range) -> list[Row]:
        """Rows as a writer of ``version`` makes them; ``numbers`` are their keys."""
        key, *rest = self.versions[version]
        return [{key.number: n, **{c.number: self._value(c.kind, required=c.required) for c in rest}} for n in numbers]

    def _value(self, kind: Kind, *, required: bool) -> Any:
        if not required and self.chance.random() < 0.25:
            return None
        match kind:
            case Scalar(chain, step):
                return self._scalar(CHAINS[chain][step])
            case Struct(columns):
                return {c.number: self._value(c.kind, required=c.required) for c in columns}
            case Items(item, keyed):
                values = [self._value(item, required=False) for _ in range(self.chance.randint(0, 3))]
                return {f"k{i}": value for i, value in enumerate(values)} if keyed else values

    def _scalar(self, kind: pa.DataType) -> Any:
        number = self.chance.randint(-1000, 1000)
        if pa.types.is_decimal(kind):
            return Decimal(number) / 100
        if kind == pa.int64():
            return number * 2**40
        if pa.types.is_string(kind):
            return f"text {number}"
        if pa.types.is_binary(kind):
            return f"bytes {number}".encode()
        if pa.types.is_boolean(kind):
            return number > 0
        if pa.types.is_temporal(kind):
            return pa.scalar(number).cast(pa.int32() if pa.types.is_date(kind) else pa.int64()).cast(kind).as_py()
        return number if kind == pa.int32() else number / (8 if kind == pa.float32() else 7)

    def table(self, version: int, rows: list[Row]) -> pa.Table:
        """``rows`` as Arrow columns, as a decoder hands them over."""
        columns = self.versions[version]
        schema = pa.schema([_field(c) for c in columns])
        named = [{c.names[-1]: _named(row[c.number], c.kind) for c in columns} for row in rows]
        return pa.Table.from_pylist(named, schema=schema)


def _field(column: Column) -> pa.Field:
    aliases = {b"lakeward.aliases": json.dumps(column.names[:-1]).encode()} if len(column.names) > 1 else None
    return pa.field(column.names[-1], _arrow(column.kind), not column.required, aliases)


def _arrow(kind: Kind) -> pa.DataType:
    match kind:
        case Scalar(chain, step):
            return CHAINS[chain][step]
        case Struct(columns):
            return pa.struct([_field(c) for c in columns])
        case Items(item, keyed=True):
            return pa.map_(pa.string(), _arrow(item))
        case Items(item):
            return pa.list_(pa.field("element", _arrow(item)))


def _named(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    match kind:
        case Struct(columns):
            return {c.names[-1]: _named(value[c.number], c.kind) for c in columns}
        case Items(item, keyed=True):
            return [(key, _named(one, item)) for key, one in value.items()]
        case Items(item):
            return [_named(one, item) for one in value]
        case _:
            return value
