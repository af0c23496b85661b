"""Avro by fastavro, a record at a time: what audits and tests hold the fast decoder against.

fastavro is more lenient than lakeward. It leaves bytes behind the record, takes negative indexes of enums and unions,
negative lengths, ints beyond 32 bits and numbers beyond 64, booleans above 1, decimals and times out of their range,
uuids of any form, and keeps the last of a map's equal keys. So the verdict, row or reject, is `avro_reader`'s, which
shares no code with the compiled programs; the values are fastavro's.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from itertools import count
from typing import Any
from uuid import UUID

import fastavro

from lakeward.decoding.avro_arrow import DURATION, arrow_schema
from lakeward.decoding.avro_reader import DamagedError, RecordReader
from lakeward.decoding.avro_schema import PRIMITIVES
from lakeward.decoding.avro_text import TextWriter
from lakeward.decoding.avro_types import (
    Array,
    Duration,
    FixedUuid,
    Itself,
    Map,
    Node,
    OneOf,
    Record,
    Scalar,
    Union,
    records,
)
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.decoding.registry import Registered

_HEADER = 5
_MILLIS = {"time-millis", "timestamp-millis", "local-timestamp-millis"}


class AvroReading:
    """Reads messages of one writer schema, whose tree is ``record``."""

    def __init__(self, registered: Registered, record: Record) -> None:
        self.schema = arrow_schema(record)
        self._record = record
        self._reader = RecordReader(record)
        self._parsed = parsed(registered)
        self._columns = _Columns(records(record))
        # A schema whose top level is no record is the value of the one column.
        self._whole = not record.name

    def __call__(self, payload: bytes) -> list[Any]:
        """The values of one record, one a column.

        Dates and times are the numbers that they are stored as, times and timestamps in microseconds, so that none is
        out of Python's range.

        Raises:
            NotDecodableError: it does not follow the rules, or fastavro cannot read it.
        """
        try:
            self._reader.read(payload, _HEADER)
        except DamagedError as error:
            raise NotDecodableError(error.code, error.reason) from None
        stream = io.BytesIO(payload)
        stream.seek(_HEADER)
        try:
            value = read(stream, self._parsed)
        except Exception as error:  # noqa: BLE001 - fastavro raises whatever it stumbles over
            raise NotDecodableError("undecodable", f"fastavro cannot read it ({type(error).__name__})") from None
        if self._whole:
            return [self._columns.value(self._record.fields[0].type, value)]
        return [self._columns.value(member.type, value[member.name]) for member in self._record.fields]


def parsed(registered: Registered) -> Any:
    """The schema as fastavro takes it: without logical types but decimal, the branches of unions told apart."""
    names: dict[str, Any] = {}
    branches = count()
    for text in registered.references:
        fastavro.parse_schema(_rewritten(_loaded(text), branches), named_schemas=names)
    return fastavro.parse_schema(_rewritten(_loaded(registered.text), branches), named_schemas=names)


def read(stream: io.BytesIO, schema: Any) -> Any:
    """One value, as fastavro reads it."""
    return fastavro.schemaless_reader(stream, schema, None, return_record_name=True, return_record_name_override=True)


def _loaded(text: str) -> Any:
    return text if text in PRIMITIVES else json.loads(text)


def _rewritten(schema: Any, branches: count[int]) -> Any:
    """The same schema with each branch of a larger union in a record of its own, which is the same on the wire."""
    if isinstance(schema, list):
        plain = [_rewritten(branch, branches) for branch in schema]
        if sum(branch != "null" for branch in plain) < 2:
            return plain
        return [
            branch if branch == "null" else _record(f"branch_{next(branches)}_{k}", branch)
            for k, branch in enumerate(plain)
        ]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key != "logicalType" or value == "decimal"}
    for key in ("type", "items", "values"):
        if key in kept:
            kept[key] = _rewritten(kept[key], branches)
    if isinstance(kept.get("fields"), list):
        kept["fields"] = [_rewritten(member, branches) for member in kept["fields"]]
    return kept


def _record(name: str, branch: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": "value", "type": branch}]}


class _Columns:
    """From fastavro's values to those of columns; ``whole`` are the schema's records by full name."""

    def __init__(self, whole: Mapping[str, Record]) -> None:
        self._whole = whole
        self._texts = TextWriter(whole)

    def value(self, node: Node, value: Any, *, inside: bool = False) -> Any:  # noqa: C901, PLR0911 - one case a type
        """What a column of ``node`` holds; ``inside`` a record that holds itself, that one is not yet text."""
        match node:
            case Union(inner):
                return None if value is None else self.value(inner, value, inside=inside)
            case OneOf(branches):
                if value is None:
                    return None
                name, content = value
                branch = branches[int(name.rpartition("_")[2])]
                return (
                    None if branch is None else {branch.name: self.value(branch.type, content["value"], inside=inside)}
                )
            case Array(items):
                return [self.value(items, item, inside=inside) for item in value]
            case Map(values):
                return [(key, self.value(values, one, inside=inside)) for key, one in value.items()]
            case Record(()):
                return True
            case Record(fields):
                return {member.name: self.value(member.type, value[member.name], inside=inside) for member in fields}
            case Itself(name):
                whole = self.value(self._whole[name], value, inside=True)
                return whole if inside else self._texts.text(node, whole)
            case FixedUuid():
                return str(UUID(bytes=value))
            case Duration():
                return dict(zip(DURATION, struct.unpack("<3I", value), strict=True))
            case Scalar(kind) if kind in _MILLIS:
                return value * 1000
            case _:
                return value
