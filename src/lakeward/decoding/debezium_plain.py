"""Rows of events that come without their schemas: their types are those of the table, or inferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from lakeward.decoding import bson, debezium_reader
from lakeward.decoding.bson_documents import DocumentReader
from lakeward.decoding.debezium_flat import TOLD
from lakeward.decoding.debezium_members import NDInt
from lakeward.decoding.debezium_reader import FormReader
from lakeward.decoding.debezium_rows import Images, chosen
from lakeward.decoding.json import JsonDecoder, Reading, Rows, Surroundings
from lakeward.decoding.json_inference import extend
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.decoding.json_types import Field, FieldType, Kind
from lakeward.records import Blobs, RawBatch, Reject

SAMPLE = 1_000
OBJECTS = Reading(FormReader.plain, debezium_reader.sampled)
DOCUMENTS = Reading(DocumentReader, bson.document)


class PlainImages:
    """Reads the images of rows, and keys, from objects of which nothing is declared.

    Args:
        columns: those of the table as it is found; None: there is none.
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
        surroundings: what else is asked of the table.
        reading: how objects are read: JSON, or documents of extended JSON.
    """

    def __init__(
        self,
        columns: pa.Schema | None,
        cache_folder: Path | None,
        surroundings: Surroundings,
        reading: Reading = OBJECTS,
    ) -> None:
        self._cache_folder = cache_folder
        self._reading = reading
        around = replace(surroundings, grows=lambda name: name in TOLD or surroundings.grows(name), registry=None)
        self._rows = (
            JsonDecoder(None, cache_folder, around, reading)
            if columns is None
            else JsonDecoder.from_schema(columns, cache_folder, around, reading)
        )
        self._keys: dict[tuple[Field, ...], Rows] = {}

    def schema(self, topic: str) -> pa.Schema | None:
        """The schema of all rows; None as long as it is not known."""
        schema = self._rows.schema(topic)
        return None if schema is None else pa.schema([one for one in schema if one.name not in TOLD])

    def rows(self, topic: str, values: Blobs, index: NDInt, rejects: list[Reject]) -> list[Images]:
        """Read the objects at ``index``; adds to ``rejects``."""
        if not len(index):
            return []
        nothing = np.zeros(len(index), np.int64)
        images = chosen(values, index)
        raw = RawBatch(topic, nothing.astype(np.int32), nothing, nothing, images, images)
        decoded = self._rows.decode(raw)
        rejects += [replace(reject, index=int(index[reject.index])) for reject in decoded.rejects]
        return [Images(part.rows, index[part.index]) for part in decoded.parts]

    def keys(self, values: Blobs, index: NDInt, names: tuple[str, ...], rejects: list[Reject]) -> Images:
        """Read the keys at ``index``, which have these names, as columns of the rows' types; adds to ``rejects``."""
        keys = chosen(values, index)
        reader = self._key_reader(names, keys)
        found: list[Reject] = []
        parts = reader.rows(keys, found)
        rejects += [replace(reject, index=int(index[reject.index])) for reject in found]
        if not parts:
            return Images(reader.schema.empty_table(), np.empty(0, np.int64))
        return Images(parts[0].rows, index[parts[0].index])

    def _key_reader(self, names: Sequence[str], keys: Blobs) -> Rows:
        known = {field.name: field for field in self._rows.fields}
        fields = [known[name] for name in names if name in known and known[name].type.kind is not Kind.NULL]
        if len(fields) < len(names):
            fields = [_named(field) for field in extend(fields, self._sample(keys))]
        chosen_fields = tuple(fields)
        if chosen_fields not in self._keys:
            self._keys[chosen_fields] = self._reading.rows(chosen_fields, self._cache_folder)
        return self._keys[chosen_fields]

    def _sample(self, keys: Blobs) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        for i in range(min(len(keys), SAMPLE)):
            try:
                found.append(self._reading.parse(keys.get(i) or b""))
            except NotDecodableError:
                continue
        return found


def _named(field: Field) -> Field:
    """A column, also where its value is null in every key: that is refused later."""
    return Field(field.name, FieldType(Kind.TEXT)) if field.type.kind is Kind.NULL else field
