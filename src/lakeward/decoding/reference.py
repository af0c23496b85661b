"""Decoders that share no code with the fast ones: fastavro and Python's own json, a record at a time.

For audits of a moderate number of records. Of the fast decoders' side they use only which Arrow type holds which Avro
type, and the rules of JSON decoding (`json_reference`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import fastavro
import numpy as np
import pyarrow as pa

from lakeward.decoding import json_reference
from lakeward.decoding.avro_arrow import arrow_schema
from lakeward.decoding.avro_schema import Array, Node, Record, Scalar, Union, parse
from lakeward.decoding.json_fields import Field
from lakeward.decoding.json_fields import arrow_schema as json_schema
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.decoding.registry import RegistryClient
from lakeward.records import Decoded, DecodedPart, RawBatch, Reject

_HEADER = 5
_MILLIS = {"time-millis", "timestamp-millis", "local-timestamp-millis"}

Values = list[Any]


class Reading(Protocol):
    """One way of turning a payload into values, one a column of ``schema``."""

    schema: pa.Schema

    def __call__(self, payload: bytes) -> Values:
        """The values of one record.

        Raises:
            NotDecodableError: it does not follow the rules.
        """


class ReferenceDecoder:
    """Rows, rejects and skipped as a `lakeward.stages.Decoder` makes them; ``name`` is what a report calls it."""

    def __init__(self, name: str, reading_of: Callable[[bytes], tuple[int, Reading]]) -> None:
        self.name = name
        self._reading_of = reading_of

    def decode(self, raw: RawBatch) -> Decoded:
        """See `lakeward.stages.Decoder.decode`; parts are grouped by writer schema."""
        rejects: list[Reject] = []
        skipped: list[int] = []
        groups: dict[int, tuple[Reading, list[int], list[Values]]] = {}
        for i in range(len(raw)):
            payload = raw.values.get(i)
            if payload is None:
                skipped.append(i)
                continue
            try:
                number, reading = self._reading_of(payload)
                values = reading(payload)
            except NotDecodableError as error:
                rejects.append(Reject(i, error.code, error.reason))
                continue
            _, index, rows = groups.setdefault(number, (reading, [], []))
            index.append(i)
            rows.append(values)
        parts = []
        for reading, index, rows in groups.values():
            columns = [pa.array([row[k] for row in rows], field.type) for k, field in enumerate(reading.schema)]
            table = pa.Table.from_arrays(columns, schema=reading.schema)
            parts.append(DecodedPart(table, np.array(index, np.int64)))
        return Decoded(parts, rejects, np.array(skipped, np.int64))


def avro_reference(registry: RegistryClient) -> ReferenceDecoder:
    """By fastavro, with the schemas of ``registry``."""
    known: dict[int, AvroReading] = {}

    def reading_of(payload: bytes) -> tuple[int, Reading]:
        if len(payload) < _HEADER or payload[0]:
            raise NotDecodableError("wrong-magic", "no Schema Registry client has written this message")
        number = int.from_bytes(payload[1:_HEADER], "big")
        if number not in known:
            text = registry.schema(number)
            if text is None:
                raise NotDecodableError("unknown-schema-id", f"the registry knows no schema with id {number}")
            known[number] = AvroReading(text, f"schema id {number}")
        return number, known[number]

    return ReferenceDecoder("fastavro", reading_of)


def json_reference_of(fields: Sequence[Field]) -> ReferenceDecoder:
    """By Python's json, into ``fields``."""
    reading = JsonReading(fields)
    return ReferenceDecoder("Python's json", lambda _: (0, reading))


class JsonReading:
    """Reads JSON objects."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = fields
        self.schema = json_schema(fields)

    def __call__(self, payload: bytes) -> Values:
        """See `Reading`."""
        return json_reference.decode(payload, self._fields)


class AvroReading:
    """Reads records of one writer schema.

    Dates and times are read as the numbers that they are stored as, so that none is out of Python's range.
    """

    def __init__(self, text: str, origin: str) -> None:
        record = parse(text, origin)
        self.schema = arrow_schema(record)
        self._parsed = fastavro.parse_schema(_without_logical_types(json.loads(text)))
        self._fields = [(field.name, field.type, _has_millis(field.type)) for field in record.fields]

    def __call__(self, payload: bytes) -> Values:
        """See `Reading`."""
        stream = io.BytesIO(payload)
        stream.seek(_HEADER)
        try:
            record: Any = fastavro.schemaless_reader(stream, self._parsed, None)
        except Exception as error:  # noqa: BLE001 - fastavro raises whatever it stumbles over
            raise NotDecodableError("undecodable", f"fastavro cannot read it ({type(error).__name__})") from None
        if stream.tell() != len(payload):
            raise NotDecodableError("undecodable", "fastavro leaves bytes behind the record")
        return [_micros(record[name], kind) if millis else record[name] for name, kind, millis in self._fields]


def _without_logical_types(schema: Any) -> Any:
    """The same schema, read as the types that logical types annotate; decimals stay."""
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key != "logicalType" or value == "decimal"}
    for key in ("type", "items", "values"):
        if key in kept:
            kept[key] = _without_logical_types(kept[key])
    if isinstance(kept.get("fields"), list):
        kept["fields"] = [_without_logical_types(field) for field in kept["fields"]]
    return kept


def _has_millis(node: Node) -> bool:
    match node:
        case Scalar(kind):
            return kind in _MILLIS
        case Union(value):
            return _has_millis(value)
        case Array(items):
            return _has_millis(items)
        case Record(fields):
            return any(_has_millis(field.type) for field in fields)
        case _:
            return False


def _micros(value: Any, node: Node) -> Any:
    """``value`` with its milliseconds as microseconds."""
    match node:
        case Union(inner):
            return None if value is None else _micros(value, inner)
        case Array(items):
            return [_micros(item, items) for item in value]
        case Record(fields):
            return {field.name: _micros(value[field.name], field.type) for field in fields}
        case Scalar(kind) if kind in _MILLIS:
            return value * 1000
        case _:
            return value
