"""How values of a described type are written, and which column holds them (docs/debezium.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lakeward.decoding import debezium_convert as convert
from lakeward.decoding.debezium_convert import Convert
from lakeward.decoding.json_fields import arrow_type
from lakeward.decoding.json_types import MAX_PRECISION, Field, FieldType, Kind

BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Described:
    """A type as Kafka Connect describes it: ``kind`` such as ``int32`` or ``struct``, ``name`` of its meaning.

    ``members`` of a struct; ``element`` of an array's items or a map's values.
    """

    kind: str
    name: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    members: tuple[tuple[str, Described], ...] = ()
    element: Described | None = None

    def member(self, name: str) -> Described | None:
        """The member of this name."""
        return dict(self.members).get(name)


@dataclass(frozen=True, slots=True)
class Form:
    """``written``: how a value stands in JSON; ``type`` of its column; ``convert``: from one to the other."""

    written: FieldType
    type: pa.DataType
    convert: Convert | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of rows: its name and form."""

    name: str
    form: Form


def described(schema: Any) -> Described:
    """Read a schema as JSON converters of Kafka Connect write it.

    Raises:
        ValueError: it is none.
    """
    match schema:
        case {"type": "struct", "fields": [*fields]}:
            inner = tuple((_name(one), described(one)) for one in fields)
            return Described("struct", *_meaning(schema), members=inner)
        case {"type": "array", "items": items}:
            return Described("array", *_meaning(schema), element=described(items))
        case {"type": "map", "keys": {"type": "string"}, "values": values}:
            return Described("map", *_meaning(schema), element=described(values))
        case {"type": str(kind)} if kind in KINDS or kind == BYTES:
            return Described(kind, *_meaning(schema))
    raise ValueError("a type is not known")


def columns_of(row: Described) -> tuple[Column, ...]:
    """The columns of a row."""
    return tuple(Column(name, form_of(kind)) for name, kind in row.members)


def form_of(kind: Described) -> Form:  # noqa: PLR0911 - one case a type
    """How values of ``kind`` are written and held."""
    if kind.name in NAMED:
        return NAMED[kind.name]
    if kind.name == "org.apache.kafka.connect.data.Decimal":
        return _decimal(kind.parameters)
    if kind.kind == BYTES:
        return Form(STRING, pa.binary(), convert.to_bytes)
    if kind.kind == "struct":
        return _struct(kind)
    if kind.element is None:
        return KINDS[kind.kind]
    inner = form_of(kind.element)
    if kind.kind == "map":
        return Form(
            FieldType(Kind.MAP, element=inner.written),
            pa.map_(pa.string(), inner.type),
            convert.entries(inner.convert, inner.type) if inner.convert else None,
        )
    return Form(
        FieldType(Kind.LIST, element=inner.written),
        pa.list_(inner.type),
        convert.items(inner.convert, inner.type) if inner.convert else None,
    )


def plain_form(wanted: FieldType) -> Form:
    """How values that nothing describes are read into a column of ``wanted``."""
    if wanted.kind is Kind.BINARY:
        return Form(STRING, pa.binary(), convert.to_bytes)
    return Form(wanted, pa.null() if wanted.kind is Kind.NULL else arrow_type(wanted))


def fields_of(columns: Sequence[Column]) -> tuple[Field, ...]:
    """What a reader of JSON is told about ``columns``."""
    return tuple(Field(column.name, column.form.written) for column in columns)


def fitted(columns: Sequence[Column], table: pa.Schema | None) -> tuple[Column, ...]:
    """``columns``, numbers of any digits as the decimals that ``table`` declares."""
    if table is None:
        return tuple(columns)
    return tuple(_fitted(column, table) for column in columns)


def _fitted(column: Column, table: pa.Schema) -> Column:
    at = table.get_field_index(column.name)
    if at < 0 or not pa.types.is_decimal(table.field(at).type) or not pa.types.is_string(column.form.type):
        return column
    wanted, first = table.field(at).type, column.form.convert
    second = convert.declared_decimal(wanted)

    def both(array: pa.Array, troubles: convert.Troubles) -> pa.Array:
        return second(array if first is None else first(array, troubles), troubles)

    return Column(column.name, Form(column.form.written, wanted, both))


def _decimal(parameters: Mapping[str, str]) -> Form:
    scale, precision = int(parameters.get("scale", "0")), int(parameters.get("connect.decimal.precision", "0"))
    if 0 < precision <= MAX_PRECISION and 0 <= scale <= precision:
        return Form(STRING, pa.decimal128(precision, scale), convert.unscaled(precision, scale))
    return Form(STRING, pa.string(), convert.unscaled_text(scale))


def _struct(kind: Described) -> Form:
    inner = [(name, form_of(member)) for name, member in kind.members]
    written = FieldType(Kind.STRUCT, members=tuple(Field(name, form.written) for name, form in inner))
    if kind.name == VARIABLE:
        return Form(written, pa.string(), convert.variable_scale)
    if kind.name.startswith(GEOMETRY):
        return Form(written, pa.binary(), convert.well_known_bytes)
    held = pa.struct([pa.field(name, form.type) for name, form in inner])
    if not any(form.convert for _, form in inner):
        return Form(written, held)
    return Form(written, held, convert.members([(name, form.convert, form.type) for name, form in inner]))


def _name(schema: Any) -> str:
    match schema:
        case {"field": str(name)}:
            return name
    raise ValueError("a field has no name")


def _meaning(schema: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
    parameters = schema.get("parameters")
    return str(schema.get("name") or ""), parameters if isinstance(parameters, dict) else {}


STRING, INT, LONG = FieldType(Kind.STRING), FieldType(Kind.INT), FieldType(Kind.LONG)
KINDS: Mapping[str, Form] = {
    "int8": Form(INT, pa.int32()),
    "int16": Form(INT, pa.int32()),
    "int32": Form(INT, pa.int32()),
    "int64": Form(LONG, pa.int64()),
    "float": Form(FieldType(Kind.FLOAT), pa.float32()),
    "float32": Form(FieldType(Kind.FLOAT), pa.float32()),
    "double": Form(FieldType(Kind.DOUBLE), pa.float64()),
    "float64": Form(FieldType(Kind.DOUBLE), pa.float64()),
    "boolean": Form(FieldType(Kind.BOOLEAN), pa.bool_()),
    "string": Form(STRING, pa.string()),
}
"""Types by the word that Kafka Connect has for them; ``float`` and ``double`` are JSON's words."""
TIME = pa.time64("us")
VARIABLE = "io.debezium.data.VariableScaleDecimal"
GEOMETRY = "io.debezium.data.geometry."
_TIMES = "io.debezium.time."
_CONNECT = "org.apache.kafka.connect.data."
NAMED: Mapping[str, Form] = {
    f"{_TIMES}Date": Form(INT, pa.date32(), convert.days),
    f"{_CONNECT}Date": Form(INT, pa.date32(), convert.days),
    f"{_TIMES}Time": Form(INT, TIME, convert.times(1, 1000)),
    f"{_CONNECT}Time": Form(INT, TIME, convert.times(1, 1000)),
    f"{_TIMES}MicroTime": Form(LONG, TIME, convert.times(1, 1)),
    f"{_TIMES}NanoTime": Form(LONG, TIME, convert.times(1000, 1)),
    f"{_TIMES}Timestamp": Form(LONG, convert.MOMENT, convert.moments(1, 1000)),
    f"{_CONNECT}Timestamp": Form(LONG, convert.MOMENT, convert.moments(1, 1000)),
    f"{_TIMES}MicroTimestamp": Form(LONG, convert.MOMENT, convert.moments(1, 1)),
    f"{_TIMES}NanoTimestamp": Form(LONG, convert.MOMENT, convert.moments(1000, 1)),
    f"{_TIMES}ZonedTimestamp": Form(FieldType(Kind.TIMESTAMPTZ), convert.ZONED, convert.zoned),
    f"{_TIMES}IsoDate": Form(STRING, pa.date32(), convert.iso(pa.date32(), "invalid-date")),
    f"{_TIMES}IsoTime": Form(STRING, TIME, convert.iso(TIME, "invalid-time")),
    f"{_TIMES}IsoTimestamp": Form(STRING, convert.MOMENT, convert.iso(convert.MOMENT, "invalid-timestamp")),
}
"""Types by their meaning. What is not here is held as the type that it gives a meaning to."""
