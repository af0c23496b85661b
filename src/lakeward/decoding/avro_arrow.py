"""Which Arrow type holds which Avro type.

Nothing is narrowed or rounded. Where Avro and Arrow differ: enums become strings; a uuid is checked and stays the
string it was (random uuid columns defeat the pruning of some readers); times of day and timestamps are microseconds,
milliseconds multiplied; timestamps in nanoseconds stay 64-bit integers, because not every table can hold them
as timestamps and cutting them would lose digits; durations and unknown logical types are what they annotate.
"""

from __future__ import annotations

import pyarrow as pa

from lakeward.decoding.avro_schema import Array, Decimal, Enum, Fixed, Node, Record, Scalar, Union

DOC = b"doc"
"""Where an Arrow field's metadata keeps what the schema says about it."""

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
    return pa.schema(_fields(record))


def arrow_type(node: Node) -> pa.DataType:
    """The Arrow type of one Avro type."""
    match node:
        case Scalar(kind):
            found = SCALARS[kind]
        case Fixed(size):
            found = pa.binary(size)
        case Enum():
            found = pa.string()
        case Decimal(precision, scale):
            found = pa.decimal128(precision, scale)
        case Array(items):
            found = pa.list_(pa.field("element", arrow_type(items), nullable(items)))
        case Union(value):
            found = arrow_type(value)
        case Record():
            found = pa.struct(_fields(node))
    return found


def nullable(node: Node) -> bool:
    """Whether a value of ``node`` can be null."""
    match node:
        case Union(value, null=None):
            return nullable(value)
        case _:
            return isinstance(node, Union) or node == Scalar("null")


def _fields(record: Record) -> list[pa.Field]:
    return [
        pa.field(f.name, arrow_type(f.type), nullable(f.type), None if f.doc is None else {DOC: f.doc.encode()})
        for f in record.fields
    ]
