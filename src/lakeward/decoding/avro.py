"""Avro in Confluent framing: a zero byte, the writer schema's id in four bytes, the value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding.avro_arrow import arrow_schema
from lakeward.decoding.avro_native import HEADER
from lakeward.decoding.avro_ready import Ready, made_ready
from lakeward.decoding.avro_registered import CODES, UNKNOWN, Refusal, record_of, resolve
from lakeward.decoding.code_cache import CodeCache
from lakeward.decoding.registry import MOST_ID, Schemas
from lakeward.records import NULL, Blobs, Decoded, DecodedPart, RawBatch, Reject

NDInt = NDArray[np.int64]


class AvroDecoder:
    """Decodes Avro with the schemas of a registry; a `Decoder`.

    Rows come grouped by writer schema, typed as `avro_arrow` tells. Each message is decoded within its own bounds, so
    one that is damaged is a reject and changes nothing about its neighbours. Codes of rejects: `CODES` and those in
    `avro_native.FAILURES`. Schemas in which a record holds itself are read by a slower path, large ones
    only until their programs are compiled.

    Args:
        registry: where writer schemas come from.
        cache_folder: keeps compiled programs between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(self, registry: Schemas, cache_folder: Path | None) -> None:
        self._registry = registry
        self._code = CodeCache(cache_folder)
        self._shapes: dict[int, Ready | Refusal] = {}

    def decode(self, raw: RawBatch) -> Decoded:
        """See `Decoder.decode`.

        Raises:
            UnreachableError, PermissionDeniedError: the registry does not serve a schema.
            ConfigurationError: there is no registry.
        """
        values = raw.values
        parts: list[DecodedPart] = []
        rejects: list[Reject] = []
        rest = np.arange(len(values))
        guess = _first_id(values)
        shape = None if guess is None else self._shape(guess)
        # Most batches have one schema id and nothing else.
        if guess is not None and shape is not None and not isinstance(shape, Refusal):
            rest = shape.decode(values, None, guess, parts, rejects)
            if len(rest) == 0:
                return Decoded(parts, rejects, rest)
        framed = _frame(values, rest)
        rejects += framed.rejects
        for schema_id, index in _by_schema(framed):
            shape = self._shape(schema_id)
            if isinstance(shape, Refusal):
                told = schema_id if schema_id <= MOST_ID else None
                rejects += [Reject(i, shape.code, shape.reason, told) for i in index.tolist()]
            else:
                shape.decode(values, index, schema_id, parts, rejects)
        return Decoded(parts, sorted(rejects, key=lambda reject: reject.index), framed.skipped)

    def schema(self, topic: str) -> pa.Schema | None:
        """The latest schema of subject ``<topic>-value``; None where there is no such subject.

        Raises:
            SchemaMismatchError: it is not Avro, or holds what cannot become a column; names its id and the field.
            UnreachableError, PermissionDeniedError, ConfigurationError: as `decode`.
        """
        subject = f"{topic}-value"
        latest = self._registry.latest(subject)
        if latest is None:
            return None
        schema_id, registered = latest
        return arrow_schema(record_of(registered, f"schema id {schema_id} of subject {subject}"))

    def _shape(self, schema_id: int) -> Ready | Refusal:
        if schema_id not in self._shapes:
            found = resolve(self._registry, schema_id)
            if isinstance(found, Refusal):
                if found.code != UNKNOWN:  # what is unknown may be registered later
                    self._shapes[schema_id] = found
                return found
            _, record = found
            self._shapes[schema_id] = made_ready(record, self._code)
        return self._shapes[schema_id]


def _first_id(values: Blobs) -> int | None:
    """The schema id of the first message that has room for one, if it has one."""
    room = values.length >= HEADER
    if not room.any():
        return None
    start = int(values.start[room.argmax()])
    header = values.data[start : start + HEADER].tobytes()
    return None if header[0] else int.from_bytes(header[1:], "big")


@dataclass(frozen=True, slots=True)
class _Framed:
    """Messages with a header: their indices, and their schema ids."""

    index: NDInt
    ids: NDArray[np.uint32]
    rejects: list[Reject]
    skipped: NDInt


def _frame(values: Blobs, rest: NDInt) -> _Framed:
    """Look at the headers of the messages ``rest``."""
    length = values.length[rest]
    rejects = [
        Reject(int(i), "too-short", f"{values.length[i]} bytes are less than the header of {HEADER}")
        for i in rest[(length < HEADER) & (length != NULL)]
    ]
    index = rest[length >= HEADER]
    magic = values.data[values.start[index]]
    rejects += [Reject(i, "wrong-magic", CODES["wrong-magic"]) for i in index[magic != 0].tolist()]
    index = index[magic == 0]
    ids = np.empty((len(index), 4), np.uint8)
    for k in range(4):
        ids[:, k] = values.data[values.start[index] + 1 + k]
    return _Framed(index, ids.view(">u4").ravel().astype(np.uint32), rejects, rest[length == NULL])


def _by_schema(framed: _Framed) -> Iterator[tuple[int, NDInt]]:
    """Schema ids, in the order in which they first appear, with the indices of their messages."""
    ids, first, which = np.unique(framed.ids, return_index=True, return_inverse=True)
    groups = np.split(framed.index[np.argsort(which, kind="stable")], np.cumsum(np.bincount(which))[:-1])
    for k in np.argsort(first):
        yield int(ids[k]), groups[k]
