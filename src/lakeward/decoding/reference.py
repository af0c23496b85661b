"""Decoders that share no code with the fast ones: fastavro and Python's own json, a record at a time.

For audits of a moderate number of records. Of the fast decoders' side they use only what a schema says, which Arrow
type holds which Avro type, and the rules that are written down (`avro_reference`, `json_reference`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from lakeward.decoding import json_reference
from lakeward.decoding.avro_reference import AvroReading
from lakeward.decoding.avro_registered import CODES, Refusal, resolve
from lakeward.decoding.json_fields import arrow_schema as json_schema
from lakeward.decoding.json_inference import extend
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.decoding.json_types import Field
from lakeward.decoding.plain import COLUMN
from lakeward.decoding.registry import RegistryClient
from lakeward.records import Decoded, DecodedPart, RawBatch, Reject

_HEADER = 5

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
        code = "too-short" if len(payload) < _HEADER else "wrong-magic"
        if len(payload) < _HEADER or payload[0]:
            raise NotDecodableError(code, CODES[code])
        number = int.from_bytes(payload[1:_HEADER], "big")
        if number not in known:
            found = resolve(registry, number)
            if isinstance(found, Refusal):
                raise NotDecodableError(found.code, found.reason)
            known[number] = AvroReading(*found)
        return number, known[number]

    return ReferenceDecoder("fastavro", reading_of)


def json_reference_of(fields: Sequence[Field], grows: Callable[[str], bool] | None = None) -> ReferenceDecoder:
    """By Python's json, into ``fields``.

    Args:
        fields: those of the rows.
        grows: where fields are inferred: whether a field of this name may hold what ``fields`` do not tell; that is
            left out of the rows, and so is what is null. None: they are declared, and there is nothing else.
    """
    reading = JsonReading(fields, grows)
    return ReferenceDecoder("Python's json", lambda _: (0, reading))


class JsonReading:
    """Reads JSON objects; see `json_reference_of`."""

    def __init__(self, fields: Sequence[Field], grows: Callable[[str], bool] | None) -> None:
        self._fields = fields
        self._grows = grows
        self.schema = json_schema(fields)

    def __call__(self, payload: bytes) -> Values:
        """See `Reading`; a registry's header is passed over."""
        record = json_reference.parse(json_reference.behind_header(payload))
        fields = self._fields if self._grows is None else extend(self._fields, [record], self._grows)
        return json_reference.values_of(record, fields)[: len(self.schema)]


def plain_reference(*, text: bool) -> ReferenceDecoder:
    """Values as they are, as `plain.PlainDecoder` has them."""
    reading = PlainReading(text=text)
    return ReferenceDecoder("as they are", lambda _: (0, reading))


class PlainReading:
    """Takes a payload as it is, or as text."""

    def __init__(self, *, text: bool) -> None:
        self._text = text
        self.schema = pa.schema([pa.field(COLUMN, pa.string() if text else pa.binary())])

    def __call__(self, payload: bytes) -> Values:
        """See `Reading`."""
        try:
            return [payload.decode() if self._text else payload]
        except UnicodeDecodeError:
            raise NotDecodableError("invalid-utf8", "the value is not valid UTF-8") from None
