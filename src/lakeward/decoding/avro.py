"""Avro in Confluent framing: a zero byte, the writer schema's id in four bytes, the value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding import avro_native, native
from lakeward.decoding.avro_arrow import arrow_schema
from lakeward.decoding.avro_columns import allocate, arrays
from lakeward.decoding.avro_program import Program, generate
from lakeward.decoding.avro_schema import Record, parse
from lakeward.decoding.code_cache import CodeCache
from lakeward.decoding.registry import RegistryClient
from lakeward.records import NULL, Decoded, DecodedPart, RawBatch, Reject

HEADER = 5
"""Bytes in front of the value: magic and schema id."""
CHUNK_ROWS = 32_768
CHUNK_BYTES = 16 << 20
"""Messages are decoded in runs of at most so many bytes (one message may have more), so that offsets fit 32 bits and
the buffers stay in reach of the processor's caches."""

NDInt = NDArray[np.int64]


class AvroDecoder:
    """Decodes Avro with the schemas of a registry; a `Decoder`.

    Rows come grouped by writer schema, typed as `avro_arrow` tells. Each message is decoded within its own bounds, so
    one that is damaged is a reject and changes nothing about its neighbours. Codes of rejects: ``too-short``,
    ``wrong-magic``, ``unknown-schema-id`` and those in `avro_native.FAILURES`.

    Args:
        registry: where writer schemas come from.
        cache_folder: keeps compiled programs between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(self, registry: RegistryClient, cache_folder: Path | None) -> None:
        self._registry = registry
        self._code = CodeCache(cache_folder)
        self._shapes: dict[int, Shape] = {}

    def decode(self, raw: RawBatch) -> Decoded:
        """See `Decoder.decode`.

        Raises:
            UnreachableError, PermissionDeniedError: the registry does not serve a schema.
            SchemaMismatchError: a schema uses what is not available; names its id and the field.
        """
        values = raw.values
        length = values.length.astype(np.int64)
        skipped = np.flatnonzero(length == NULL)
        framed = length >= HEADER
        rejects = [
            Reject(int(i), "too-short", f"{int(length[i])} bytes are less than the header of {HEADER}")
            for i in np.flatnonzero(~framed & (length != NULL))
        ]
        candidates = np.flatnonzero(framed)
        start = values.start[candidates]
        magic = values.data[start] == 0
        rejects += [
            Reject(int(i), "wrong-magic", "the first byte is not 0, so this is no message of a Schema Registry client")
            for i in candidates[~magic]
        ]
        candidates, start = candidates[magic], start[magic]
        ids = np.zeros(len(start), np.int64)
        for k in range(1, HEADER):
            ids = (ids << 8) | values.data[start + k]
        parts = []
        for schema_id in _distinct(ids):
            index = candidates if len(ids) == 0 else candidates[ids == schema_id]
            shape = self._shape(schema_id)
            if shape is None:
                reason = f"the registry knows no schema with id {schema_id}"
                rejects += [Reject(int(i), "unknown-schema-id", reason, schema_id) for i in index]
                continue
            part, failed = shape.decode(raw, index, schema_id)
            rejects += failed
            if len(part.index):
                parts.append(part)
        return Decoded(parts, sorted(rejects, key=lambda reject: reject.index), skipped)

    def schema(self, topic: str) -> pa.Schema | None:
        """The latest schema of subject ``<topic>-value``; None where there is no such subject. Raises as `decode`."""
        subject = f"{topic}-value"
        latest = self._registry.latest(subject)
        return None if latest is None else arrow_schema(parse(latest[1], f"schema id {latest[0]} of subject {subject}"))

    def _shape(self, schema_id: int) -> Shape | None:
        if schema_id not in self._shapes:
            text = self._registry.schema(schema_id)
            if text is None:
                return None
            self._shapes[schema_id] = Shape.of(parse(text, f"schema id {schema_id}"), self._code)
        return self._shapes[schema_id]


@dataclass(frozen=True, slots=True)
class Shape:
    """A writer schema made ready: its program, compiled, and the columns it makes."""

    program: Program
    schema: pa.Schema
    function: Callable[..., Any]

    @staticmethod
    def of(record: Record, code: CodeCache) -> Shape:
        """Compile the program for ``record``."""
        program = generate(record)
        none = np.empty(0, np.uint64)

        def warm_up(function: Callable[..., Any]) -> None:
            _run(Shape(program, schema, function), np.empty(0, np.uint8), none, none)

        schema = arrow_schema(record)
        depends = inspect.getsource(native) + inspect.getsource(avro_native)
        return Shape(program, schema, code.function(program.source, depends=depends, warm_up=warm_up))

    def decode(self, raw: RawBatch, index: NDInt, schema_id: int) -> tuple[DecodedPart, list[Reject]]:
        """The rows of the messages ``index`` (ascending) of ``raw``, and those that are none."""
        first = (raw.values.start[index] + HEADER).astype(np.uint64)
        last = (raw.values.start[index] + raw.values.length[index]).astype(np.uint64)
        batches, kept, rejects = [], [], []
        for low, high in _chunks(last - first):
            run = _run(self, raw.values.data, first[low:high], last[low:high])
            batches.append(pa.RecordBatch.from_arrays(run.arrays, schema=self.schema))
            kept.append(index[low:high][run.rows])
            rejects += [
                self._reject(int(index[low + m]), int(run.status[m]), int(run.where[m]), schema_id)
                for m in np.flatnonzero(run.status >= 0)
            ]
        return DecodedPart(pa.Table.from_batches(batches, self.schema), np.concatenate(kept)), rejects

    def _reject(self, index: int, status: int, where: int, schema_id: int) -> Reject:
        code, reason = avro_native.FAILURES[status]
        place = f"field {self.program.paths[where]}: " if status else ""
        return Reject(index, code, place + reason, schema_id)


@dataclass(frozen=True, slots=True)
class _Ran:
    """What a program made of some messages: columns, which message each row is, and how the others failed."""

    arrays: list[pa.Array]
    rows: NDInt
    status: NDArray[np.int8]
    where: NDArray[np.int32]


def _run(shape: Shape, data: NDArray[np.uint8], first: NDArray[np.uint64], last: NDArray[np.uint64]) -> _Ran:
    program = shape.program
    messages = len(first)
    buffers = allocate(program, messages, int((last - first).sum()))
    status = np.full(messages, -1, np.int8)
    where = np.zeros(messages, np.int32)
    rows = np.empty(messages, np.int64)
    counts = np.zeros(len(program.smallest), np.int64)
    payload = data.view()
    payload.flags.writeable = False  # read-only arrays are a type of their own to numba: one program, not two
    symbols = np.array(program.symbols, np.int64)
    shape.function(payload, first, last, status, where, rows, counts, symbols, *buffers)
    return _Ran(arrays(program, buffers, counts), rows[: counts[0]], status, where)


def _distinct(ids: NDInt) -> list[int]:
    """The ids, in the order in which they first appear."""
    if len(ids) == 0:
        return []
    if (ids == ids[0]).all():
        return [int(ids[0])]
    found, first = np.unique(ids, return_index=True)
    return [int(i) for i in found[np.argsort(first)]]


def _chunks(sizes: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Runs of messages within the bounds of a chunk, at least one message each."""
    ends = np.cumsum(sizes)
    runs = []
    low = 0
    while low < len(sizes):
        before = int(ends[low - 1]) if low else 0
        high = int(np.searchsorted(ends, before + CHUNK_BYTES, side="right"))
        high = min(max(high, low + 1), low + CHUNK_ROWS)
        runs.append((low, high))
        low = high
    return runs
