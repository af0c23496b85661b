"""Which Arrow type holds which Avro type.

Nothing is narrowed or rounded. Where Avro and Arrow differ: enums become strings; a uuid is checked and stays the
string it was (random uuid columns defeat the pruning of some readers); times of day and timestamps are microseconds,
milliseconds multiplied; timestamps in nanoseconds stay 64-bit integers, because not every table can hold them
as timestamps and cutting them would lose digits; a duration is a struct of its three numbers; a union of several types
is a struct with one member a type, of which one has a value; a record inside itself is JSON text; a record without
fields is true where it is there; unknown logical types are what they annotate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import pyarrow as pa

from lakeward.decoding.avro_types import (
    Array,
    Decimal,
    Duration,
    Enum,
    Field,
    Fixed,
    FixedUuid,
    Itself,
    Map,
    Node,
    OneOf,
    Record,
    Scalar,
    Union,
    nullable,
)

DOC = b"doc"
"""Where an Arrow field's metadata keeps what the schema says about it."""
ALIASES = b"lakeward.aliases"
"""Where it keeps the names that the field had before: a list of strings, as JSON."""
DURATION = ("months", "days", "milliseconds")

SCALARS: dict[str, pa.DataType] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "date": pa.date32(),
    "time-millis": pa.time64("us"),
    "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("us", "UTC"),
    "timestamp-micros": pa.timestamp("us", "UTC"),
    "local-timestamp-millis": pa.timestamp("us"),
    "local-timestamp-micros": pa.timestamp("us"),
    "uuid": pa.string(),
}


def arrow_schema(record: Record) -> pa.Schema:
    """The columns of a record; not nullable where Avro has no null, each with its doc as metadata."""
    return pa.schema(_something(_fields(record.fields)))


def arrow_type(node: Node) -> pa.DataType:  # noqa: C901 - one case a type
    """The Arrow type of one Avro type."""
    match node:
        case Scalar(kind):
            found = SCALARS[kind]
        case Fixed(size):
            found = pa.binary(size)
        case Enum() | FixedUuid() | Itself():
            found = pa.string()
        case Duration():
            found = pa.struct([pa.field(part, pa.int64(), nullable=False) for part in DURATION])
        case Decimal(precision, scale):
            found = pa.decimal128(precision, scale)
        case Array(items):
            found = pa.list_(pa.field("element", _inside(items), nullable(items)))
        case Map(values):
            found = pa.map_(pa.string(), pa.field("value", _inside(values), nullable(values)))
        case Union(value):
            found = arrow_type(value)
        case OneOf(branches):
            found = pa.struct(_fields((branch for branch in branches if branch is not None), optional=True))
        case Record():
            found = pa.struct(_something(_fields(node.fields))) if node.fields else pa.bool_()
    return found


def _inside(node: Node) -> pa.DataType:
    """The type of an array's items or a map's values; nulls are booleans there, because tables know no type of null."""
    found = arrow_type(node)
    return pa.bool_() if found == pa.null() else found


def _something(members: list[pa.Field]) -> list[pa.Field]:
    """The members of a record, booleans if none could hold anything but null: a struct needs a member."""
    only_nulls = all(member.type == pa.null() for member in members)
    return [member.with_type(pa.bool_()) for member in members] if only_nulls else members


def _fields(members: Iterable[Field], *, optional: bool = False) -> list[pa.Field]:
    return [
        pa.field(member.name, arrow_type(member.type), optional or nullable(member.type), _metadata(member))
        for member in members
    ]


def _metadata(member: Field) -> dict[bytes, bytes] | None:
    told = {} if member.doc is None else {DOC: member.doc.encode()}
    if member.aliases:
        told[ALIASES] = json.dumps(member.aliases).encode()
    return told or None
