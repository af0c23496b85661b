"""JSON: one object a message, its fields declared, inferred, or those of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import structlog

from lakeward.decoding import json_reference
from lakeward.decoding.framing import Unframed, unframe
from lakeward.decoding.json_fields import columns_of, declared, of_schema
from lakeward.decoding.json_inference import extend, merge
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.decoding.json_registered import fields_of, refusal
from lakeward.decoding.json_rows import NDInt, RowReader
from lakeward.decoding.json_types import Field
from lakeward.decoding.registry import RegistryClient
from lakeward.records import NULL, Blobs, Decoded, DecodedPart, RawBatch, Reject

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SAMPLE = 10_000
"""How many records of a batch types are inferred from, at most."""
SAMPLE_BYTES = 16 << 20
UNDECLARED = "undeclared-field"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an inferring decoder is told of the table that it fills, and who knows the schemas of framed messages.

    ``grows``: whether a field of this name may become a column, or get members, after the first batch. ``columns``: the
    table's columns as last seen, under the records' names; the same object as long as they are the same; None: no
    table yet. ``registry``: None: the ids of framed messages are not looked up.
    """

    grows: Callable[[str], bool] = lambda _: True
    columns: Callable[[], pa.Schema | None] = lambda: None
    registry: RegistryClient | None = None


class Rows(Protocol):
    """What reads records of known fields: a `RowReader`, or something like it."""

    fields: tuple[Field, ...]
    schema: pa.Schema

    def rows(self, values: Blobs, rejects: list[Reject]) -> list[DecodedPart]:
        """See `RowReader.rows`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How records are read: by readers that ``rows`` makes; types are inferred from what ``parse`` makes of them."""

    rows: Callable[[tuple[Field, ...], Path | None], Rows] = RowReader
    parse: Callable[[bytes], dict[str, Any]] = json_reference.parse


class JsonDecoder:
    """Decodes JSON objects; a `Decoder`. The rules are told in docs/json.md.

    Rows have every field, nullable, in the order of the fields; a field that a record lacks is null. Rows that hold
    fields which no record before has held come as a part of their own, with more columns. Codes of rejects are those in
    `json_reference`, ``no-fields``, and for framed messages ``too-short`` and those in `json_registered`.

    Args:
        fields: name to type text, as in a configuration. None: inferred from the first batch that holds a field, and
            added to as ``surroundings`` allow.
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
        surroundings: what else it asks.
        reading: what reads the records.

    Raises:
        ConfigurationError: a type is unknown or impossible.
    """

    def __init__(
        self,
        fields: Mapping[str, str] | None,
        cache_folder: Path | None = None,
        surroundings: Surroundings = Surroundings(),
        reading: Reading = Reading(),
    ) -> None:
        self._cache_folder = cache_folder
        self._surroundings = surroundings
        self._reading = reading
        self._inferring = fields is None
        self._rows: Rows | None = None if fields is None else reading.rows(declared(fields), cache_folder)
        self._columns: pa.Schema | None = None
        self._ids: set[int] = set()

    @classmethod
    def from_schema(
        cls,
        schema: pa.Schema,
        cache_folder: Path | None = None,
        surroundings: Surroundings = Surroundings(),
        reading: Reading = Reading(),
    ) -> JsonDecoder:
        """Make the decoder whose rows fill a table with these columns; it decodes as the one that inferred them did.

        Raises:
            SchemaMismatchError: a column has a type that no JSON value is read into.
        """
        decoder = cls(None, cache_folder, surroundings, reading)
        decoder._rows = reading.rows(of_schema(schema), cache_folder)
        return decoder

    def decode(self, raw: RawBatch) -> Decoded:
        """See `Decoder.decode`.

        Raises:
            UnreachableError, PermissionDeniedError, ConfigurationError: the registry does not tell of a schema.
            SchemaMismatchError: the table has got a column of a type that no JSON value is read into.
        """
        skipped = np.flatnonzero(raw.values.length == NULL)
        unframed = unframe(raw.values)
        values = raw.values if unframed is None else self._behind_headers(unframed)
        if self._inferring:
            self._follow()
            if self._rows is None:
                self._grow(raw.topic, self._sample(values, np.flatnonzero(values.length != NULL)))
        rejects: list[Reject] = []
        if self._rows is None:
            parts, rejects = [], list(_without_fields(values))
        else:
            parts = self._rows.rows(values, rejects)
            if self._inferring and any(reject.code == UNDECLARED for reject in rejects):
                parts, rejects = self._with_new_fields(raw.topic, values, parts, rejects)
        if unframed is not None:
            ids = unframed.ids
            rejects = [replace(one, schema_id=int(ids[one.index])) if ids[one.index] >= 0 else one for one in rejects]
            rejects = sorted([*unframed.rejects, *rejects], key=lambda reject: reject.index)
        return Decoded(parts, rejects, skipped)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields as far as they are known."""
        return () if self._rows is None else self._rows.fields

    def schema(self, topic: str) -> pa.Schema | None:  # noqa: ARG002  every topic of one decoder has the same fields
        """The schema of all rows; None as long as it is not inferred."""
        return None if self._rows is None else self._rows.schema

    def _behind_headers(self, unframed: Unframed) -> Blobs:
        """The values, those null whose schema id is refused; the rejects of these are added to ``unframed``."""
        registry, values = self._surroundings.registry, unframed.values
        if registry is None:
            return values
        length = values.length.copy()
        for schema_id in np.unique(unframed.ids[unframed.ids >= 0]).tolist():
            why = refusal(registry, schema_id)
            if why is not None:
                index = np.flatnonzero(unframed.ids == schema_id)
                length[index] = NULL
                unframed.rejects.extend(Reject(i, *why, schema_id=schema_id) for i in index.tolist())
            elif self._inferring and schema_id not in self._ids:
                self._ids.add(schema_id)
                registered = registry.schema(schema_id)
                self._learn(() if registered is None else fields_of(registered))
        return Blobs(values.data, values.start, length)

    def _learn(self, fields: tuple[Field, ...]) -> None:
        """Take what a JSON Schema declares."""
        known = () if self._rows is None else self._rows.fields
        allowed = [field for field in fields if self._rows is None or self._surroundings.grows(field.name)]
        self._read_as(merge(known, allowed))

    def _follow(self) -> None:
        """Take the types of the table's columns, where they have changed: another worker may have inferred others."""
        columns = self._surroundings.columns()
        if columns is self._columns:
            return
        self._columns = columns
        if columns is not None:
            known = () if self._rows is None else self._rows.fields
            self._read_as(merge(of_schema(columns), known))

    def _grow(self, topic: str, sample: list[dict[str, object]]) -> None:
        """Add what ``sample`` holds besides the known fields."""
        first = self._rows is None
        known = () if self._rows is None else self._rows.fields
        fields = extend(known, sample) if first else extend(known, sample, self._surroundings.grows)
        before = {field.name: str(field.type) for field in known}
        now = {field.name: str(field.type) for field in columns_of(fields)}
        changed = {name: text for name, text in now.items() if before.get(name) != text}
        if changed:
            log.info("json_fields_inferred", topic=topic, records=len(sample), fields=changed)
        self._read_as(fields)

    def _read_as(self, fields: tuple[Field, ...]) -> None:
        if fields and (self._rows is None or self._rows.fields != fields):
            reader = self._reading.rows(fields, self._cache_folder)
            self._rows = reader if len(reader.schema) or self._rows is not None else None

    def _sample(self, values: Blobs, index: NDInt) -> list[dict[str, object]]:
        """The records among the messages at ``index``, as many as are looked at."""
        sample: list[dict[str, object]] = []
        size = 0
        for i in index[:SAMPLE].tolist():
            size += int(values.length[i])
            if sample and size > SAMPLE_BYTES:
                break
            try:
                sample.append(self._reading.parse(values.get(i) or b""))
            except NotDecodableError:
                continue
        return sample

    def _with_new_fields(
        self, topic: str, values: Blobs, parts: list[DecodedPart], rejects: list[Reject]
    ) -> tuple[list[DecodedPart], list[Reject]]:
        """Read again the messages that have fields which are not known, with these fields, where they may be added."""
        again = np.array([reject.index for reject in rejects if reject.code == UNDECLARED], np.int64)
        before = self._rows
        self._grow(topic, self._sample(values, again))
        if self._rows is None or self._rows is before:
            return parts, rejects
        still: list[Reject] = []
        found = self._rows.rows(values.select(again), still)
        if not found:
            self._rows = before
        found = [replace(part, index=again[part.index]) for part in found]
        rejects = [reject for reject in rejects if reject.code != UNDECLARED]
        rejects += [replace(reject, index=int(again[reject.index])) for reject in still]
        return _joined([*parts, *found]), sorted(rejects, key=lambda reject: reject.index)


def _joined(parts: list[DecodedPart]) -> list[DecodedPart]:
    """Two parts with the same columns as one."""
    if len(parts) < 2 or parts[0].rows.schema != parts[1].rows.schema:
        return parts
    index = np.concatenate([part.index for part in parts])
    order = np.argsort(index)
    return [DecodedPart(pa.concat_tables([part.rows for part in parts]).take(order).combine_chunks(), index[order])]


def _without_fields(values: Blobs) -> Iterator[Reject]:
    """Reject every message of a batch from which no field could be inferred."""
    for i in np.flatnonzero(values.length != NULL).tolist():
        try:
            json_reference.parse(values.get(i) or b"")
            yield Reject(i, "no-fields", "no record so far has a field, so the table's columns are not known")
        except NotDecodableError as error:
            yield Reject(i, error.code, error.reason)
