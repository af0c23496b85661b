"""Message keys as columns: what a tombstone, which has nothing else, tells of the row that it deletes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from lakeward.decoding.registry import AVRO, Registered, Schemas
from lakeward.records import NULL, Blobs, Decoded, DecodedPart, RawBatch, Reject
from lakeward.stages import Decoder

LONG = 8
"""Bytes of a key that Kafka's own serializer writes for a long, the highest first."""


class KeyReader(Protocol):
    """Reads keys; null ones are skipped, as tombstones are by a decoder of values."""

    def decode(self, raw: RawBatch) -> Decoded:
        """See `Decoder.decode`, of the keys of ``raw``."""


@dataclass(frozen=True, slots=True)
class TextKeys:
    """UTF-8 texts, in a column ``name``."""

    name: str

    def decode(self, raw: RawBatch) -> Decoded:
        """See `KeyReader.decode`; code of rejects: ``key-not-utf8``."""
        keys = pa.chunked_array([raw.keys.to_arrow()])
        index = np.flatnonzero(raw.keys.length != NULL)
        rejects: list[Reject] = []
        try:
            texts = keys.cast(pa.string())
        except pa.ArrowInvalid:
            bad = [i for i in index.tolist() if not _is_text(raw.keys.get(i) or b"")]
            rejects = [Reject(i, "key-not-utf8", "the key is not valid UTF-8") for i in bad]
            index = np.setdiff1d(index, np.array(bad, np.int64))
            texts = keys.take(pa.array(index)).cast(pa.string())
        else:
            texts = texts.take(pa.array(index)) if len(index) < len(raw) else texts
        return _decoded(raw, pa.table({self.name: texts}), index, rejects)


@dataclass(frozen=True, slots=True)
class LongKeys:
    """Integers of eight bytes, in a column ``name``."""

    name: str

    def decode(self, raw: RawBatch) -> Decoded:
        """See `KeyReader.decode`; code of rejects: ``key-not-long``."""
        length = raw.keys.length
        rejects = [
            Reject(i, "key-not-long", f"the key has {length[i]} bytes, and a long has {LONG}")
            for i in np.flatnonzero((length != NULL) & (length != LONG)).tolist()
        ]
        index = np.flatnonzero(length == LONG)
        places = raw.keys.start[index][:, None] + np.arange(LONG)
        values = np.ascontiguousarray(raw.keys.data[places]).view(">i8").ravel().astype(np.int64)
        return _decoded(raw, pa.table({self.name: values}), index, rejects)


@dataclass(frozen=True, slots=True)
class RecordKeys:
    """Keys that a decoder of values reads. ``wraps``: the column of keys that are no object but a JSON value alone."""

    decoder: Decoder
    wraps: str | None = None

    def decode(self, raw: RawBatch) -> Decoded:
        """See `KeyReader.decode`; codes of rejects are the decoder's."""
        keys = raw.keys if self.wraps is None else _wrapped(raw.keys, self.wraps)
        decoded = self.decoder.decode(replace(raw, values=keys))
        rejects = [replace(one, reason=f"the key: {one.reason}") for one in decoded.rejects]
        return replace(decoded, rejects=rejects)


def _decoded(raw: RawBatch, rows: pa.Table, index: np.ndarray, rejects: list[Reject]) -> Decoded:
    parts = [DecodedPart(rows, index)] if len(index) else []
    return Decoded(parts, rejects, np.flatnonzero(raw.keys.length == NULL))


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _wrapped(keys: Blobs, name: str) -> Blobs:
    """``keys``, each that is no object or null wrapped in one with the member ``name``."""
    filled = np.flatnonzero(keys.length > 0)
    if not len(filled) or (keys.data[keys.start[filled]] == ord("{")).all():
        return keys
    before, after = b'{"' + name.encode() + b'":', b"}"
    values = (keys.get(i) for i in range(len(keys)))
    return Blobs.of([v if v is None or v[:1] == b"{" else before + v + after for v in values])


@dataclass(frozen=True, slots=True)
class Alone:
    """A registry whose schemas that are no records become those of records with the one member ``name``.

    Both are the same bytes in Avro, so that a key that is a text or a number alone is read as all others are.
    """

    registry: Schemas
    name: str

    def schema(self, schema_id: int) -> Registered | None:
        """See `RegistryClient.schema`."""
        registered = self.registry.schema(schema_id)
        return None if registered is None else self._as_record(registered)

    def latest(self, subject: str) -> tuple[int, Registered] | None:
        """See `RegistryClient.latest`."""
        latest = self.registry.latest(subject)
        return None if latest is None else (latest[0], self._as_record(latest[1]))

    def _as_record(self, registered: Registered) -> Registered:
        try:
            schema = json.loads(registered.text) if registered.kind == AVRO else {"type": "record"}
        except ValueError:  # told by who reads it
            return registered
        if isinstance(schema, dict) and schema.get("type") == "record":
            return registered
        record = {"type": "record", "name": "Key", "fields": [{"name": self.name, "type": schema}]}
        return replace(registered, text=json.dumps(record))


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What identifies the rows of a keyed topic. ``columns``: the key columns, by the records' names.

    ``reader``: None: nothing tells how keys are read, and a tombstone is a reject. ``seen``: the table's columns as
    last seen, by the records' names; None: no table yet.
    """

    columns: tuple[str, ...]
    reader: KeyReader | None
    seen: Callable[[], pa.Schema | None]


def types_of(columns: Sequence[str], schemas: Sequence[pa.Schema | None]) -> dict[str, pa.DataType]:
    """The type of each of ``columns``, as the first schema that has it tells."""
    found: dict[str, pa.DataType] = {}
    for schema in schemas:
        for name in columns:
            if schema is not None and name in schema.names and name not in found:
                found[name] = schema.field(name).type
    return found
