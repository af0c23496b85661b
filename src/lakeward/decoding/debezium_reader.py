"""Rows from JSON objects whose columns have forms: read by compiled code, then converted whole columns at a time."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.decoding import json_reference
from lakeward.decoding.debezium_convert import (
    FIRST_DAY,
    INFINITE_DAYS,
    INFINITE_TEXTS,
    LAST_DAY,
    NOT_FINITE,
    Troubles,
    number_text,
)
from lakeward.decoding.debezium_forms import Column, fields_of, plain_form
from lakeward.decoding.debezium_members import NDInt
from lakeward.decoding.json_inference import SPECIAL, Typed
from lakeward.decoding.json_reference import NotDecodableError, Number, Special, Whole
from lakeward.decoding.json_rows import RowReader
from lakeward.decoding.json_types import Field, FieldType, Kind
from lakeward.records import Blobs, DecodedPart, Reject

MOST_DIGITS = 12
FLOATING = frozenset({Kind.FLOAT, Kind.DOUBLE})
TEXT = FieldType(Kind.TEXT)
STRING_MODE = "; with `decimal.handling.mode: string`, or with schemas, it can be read"
TEXT_MODE = "; with `time.precision.mode: isostring`, or with schemas, it can be read"


class FormReader:
    """Reads records of these columns, as a `RowReader` does.

    Args:
        columns: at least one.
        fields: what the reader's user knows of the columns.
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(self, columns: Sequence[Column], fields: tuple[Field, ...], cache_folder: Path | None) -> None:
        self.fields = fields
        self._columns = [column for column in columns if column.form.written.kind is not Kind.NULL]
        self._reader = RowReader(fields_of(columns), cache_folder, decode)
        self.schema = schema_of(self._columns)

    @staticmethod
    def plain(fields: tuple[Field, ...], cache_folder: Path | None) -> FormReader:
        """Make the reader of fields that nothing describes."""
        return FormReader([Column(field.name, plain_form(field.type)) for field in fields], fields, cache_folder)

    def rows(self, values: Blobs, rejects: list[Reject]) -> list[DecodedPart]:
        """Read all messages but the null ones: one part, or none where there is no row; adds to ``rejects``."""
        parts = self._reader.rows(values, rejects)
        if all(column.form.convert is None for column in self._columns):
            return parts
        good = [converted(self._columns, part.rows, part.index, rejects) for part in parts]
        return [part for part in good if len(part.index)]


def converted(columns: Sequence[Column], rows: pa.Table, index: NDInt, rejects: list[Reject]) -> DecodedPart:
    """``rows``, whose columns hold what was written, as ``columns`` hold it; adds to ``rejects``."""
    arrays, bad = [], np.zeros(len(index), np.bool_)
    codes: dict[int, tuple[str, str]] = {}
    for k, column in enumerate(columns):
        array = one_array(rows.column(k))
        if column.form.convert is not None:
            troubles = Troubles(column.name)
            array = column.form.convert(array, troubles)
            for mask, code, reason in troubles.found:
                codes.update(dict.fromkeys(np.flatnonzero(mask & ~bad).tolist(), (code, reason)))
                bad |= mask
        arrays.append(array if array.type == column.form.type else array.cast(column.form.type))
    table = pa.Table.from_arrays(arrays, schema=schema_of(columns))
    if not codes:
        return DecodedPart(table, index)
    rejects += [Reject(int(index[row]), *codes[row]) for row in sorted(codes)]
    good = np.flatnonzero(~bad)
    return DecodedPart(table.take(pa.array(good)), index[good])


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """The schema of rows with these columns, all nullable."""
    return pa.schema([pa.field(column.name, column.form.type) for column in columns])


def decode(payload: bytes, fields: Sequence[Field]) -> list[Any]:
    """Decode one record as `json_reference.decode` does, and what connectors write differently besides.

    Raises:
        NotDecodableError: the record does not follow the rules.
    """
    return values_of(json_reference.parse(payload), fields)


def sampled(payload: bytes) -> dict[str, Any]:
    """Read one record as `json_reference.parse` does, for its types to be inferred.

    Raises:
        NotDecodableError: it is not one well-formed JSON object.
    """
    return {name: _sampled(value) for name, value in json_reference.parse(payload).items()}


def _sampled(value: Any) -> Any:
    if type(value) is str and value in SPECIAL:
        return Typed.of(value, TEXT)
    if type(value) is list:
        return [_sampled(item) for item in value]
    if is_number(value):
        return ""
    if is_geometry(value):
        return Typed.of("", FieldType(Kind.BINARY))
    return value


def is_number(value: Any) -> bool:
    """Whether this is a number of any scale: ``{"scale": 2, "value": "AYag"}``."""
    return (
        type(value) is dict
        and set(value) == {"scale", "value"}
        and isinstance(value["scale"], Whole)
        and type(value["value"]) is str
    )


def is_geometry(value: Any) -> bool:
    """Whether this is a geometry in its well-known binary form."""
    return type(value) is dict and {"wkb", "srid"} <= set(value) <= {"wkb", "srid", "x", "y"}


def values_of(record: Mapping[str, Any], fields: Sequence[Field]) -> list[Any]:
    """One value a column of a parsed record; see `decode`.

    Raises:
        NotDecodableError: the record does not follow the rules.
    """
    own: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for field in fields:
        value = record.get(field.name)
        if value is None:
            continue
        value = _special(value, field.type)
        adapt = ADAPTED.get(field.type.kind)
        if adapt is not None and (adapted := adapt(value, field)) is not value:
            own[field.name], value = adapted, None
        told[field.name] = value
    values = json_reference.values_of({**record, **told}, fields)
    if own:
        names = [field.name for field in fields if field.type.kind is not Kind.NULL]
        values = [own.get(name, value) for name, value in zip(names, values, strict=True)]
    return values


def _special(value: Any, kind: FieldType) -> Any:
    """``value`` with what stands for numbers and moments that JSON has no form for."""
    if type(value) is str:
        if kind.kind in FLOATING and value in SPECIAL:
            return Special(value)
        return None if kind.kind is Kind.TIMESTAMPTZ and value in INFINITE_TEXTS else value
    if type(value) is list and kind.kind is Kind.LIST and kind.element is not None:
        return [_special(item, kind.element) for item in value]
    return value


def _date(value: Any, field: Field) -> Any:
    if isinstance(value, Whole) and len(value) < MOST_DIGITS:
        days = int(value)
        if days in INFINITE_DAYS:
            return None
        if FIRST_DAY <= days <= LAST_DAY:
            return days
    return _without_zone(value, field)


def _moment(value: Any, field: Field) -> Any:
    if isinstance(value, Number):
        raise NotDecodableError("unknown-unit", f"field {field.name!r}: the number's unit is not told{TEXT_MODE}")
    return value if field.type.kind is Kind.TIMESTAMPTZ else _without_zone(value, field)


def _without_zone(value: Any, field: Field) -> Any:
    """What a connector writes of a moment without a zone: as if it were UTC."""
    if type(value) is not str or not value.endswith("Z"):
        return value
    if value in INFINITE_TEXTS:
        return None
    return json_reference.CONVERTERS[field.type.kind](value[:-1], field.type, field.name)


def _text(value: Any, field: Field) -> Any:
    return _number(value, field) if is_number(value) else value


def _number(value: Mapping[str, Any], field: Field) -> str:
    try:
        return number_text(base64.b64decode(value["value"], validate=True), int(value["scale"]))
    except (binascii.Error, ValueError):
        raise NotDecodableError("invalid-decimal", f"field {field.name!r}: the number of any scale is none") from None


def _geometry(value: Any, _field: Field) -> Any:
    return value["wkb"] if is_geometry(value) else value


def _decimal(value: Any, field: Field) -> Any:
    if type(value) is str and value in NOT_FINITE:
        return None
    if is_number(value):
        return json_reference.CONVERTERS[Kind.DECIMAL](_number(value, field), field.type, field.name)
    if type(value) is str and json_reference.NUMBER.fullmatch(value) is None:
        raise NotDecodableError("invalid-decimal", f"field {field.name!r}: the string is not a number{STRING_MODE}")
    return value


ADAPTED: Mapping[Kind, Callable[[Any, Field], Any]] = {
    Kind.DATE: _date,
    Kind.TIMESTAMP: _moment,
    Kind.TIMESTAMPTZ: _moment,
    Kind.TIME: _moment,
    Kind.DECIMAL: _decimal,
    Kind.TEXT: _text,
    Kind.STRING: _geometry,
}
"""By kind: what becomes of a value; the same object where nothing does."""


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
