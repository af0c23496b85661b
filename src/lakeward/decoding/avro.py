"""Avro in Confluent framing: a zero byte, the writer schema's id in four bytes, the value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding import avro_native, native
from lakeward.decoding.avro_arrow import arrow_schema
from lakeward.decoding.avro_columns import allocate, arrays
from lakeward.decoding.avro_native import HEADER
from lakeward.decoding.avro_program import Program, generate
from lakeward.decoding.avro_schema import Record, parse
from lakeward.decoding.code_cache import CodeCache
from lakeward.decoding.registry import RegistryClient
from lakeward.records import NULL, Blobs, Decoded, DecodedPart, RawBatch, Reject

OTHER = np.int8(-2)
"""The status of messages that the program passed over."""
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
        parts: list[DecodedPart] = []
        rejects: list[Reject] = []
        rest = np.arange(len(values))
        guess = _first_id(values)
        shape = None if guess is None else self._shape(guess)
        if guess is not None and shape is not None:  # most batches have one schema id and nothing else
            rest = shape.decode(values, None, guess, parts, rejects)
            if len(rest) == 0:
                return Decoded(parts, rejects, rest)
        framed = _frame(values, rest)
        rejects += framed.rejects
        for schema_id, index in _by_schema(framed):
            shape = self._shape(schema_id)
            if shape is None:
                reason = f"the registry knows no schema with id {schema_id}"
                rejects += [Reject(int(i), "unknown-schema-id", reason, schema_id) for i in index]
            else:
                shape.decode(values, index, schema_id, parts, rejects)
        return Decoded(parts, sorted(rejects, key=lambda reject: reject.index), framed.skipped)

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

        def warm_up(function: Callable[..., Any]) -> None:
            _run(Shape(program, schema, function), Blobs.of(()), 0)

        schema = arrow_schema(record)
        depends = inspect.getsource(native) + inspect.getsource(avro_native)
        return Shape(program, schema, code.function(program.source, depends=depends, warm_up=warm_up))

    def decode(
        self, values: Blobs, index: NDInt | None, schema_id: int, parts: list[DecodedPart], rejects: list[Reject]
    ) -> NDInt:
        """Decode the messages ``index`` (ascending; None: all) that are framed with ``schema_id``.

        Adds their rows to ``parts``, and those that are damaged to ``rejects``. Returns the indices of the others.
        """
        chosen = values if index is None else values.select(index)
        batches, rows, others = [], [], []
        for low, high in _chunks(chosen.length):
            run = _run(self, Blobs(chosen.data, chosen.start[low:high], chosen.length[low:high]), schema_id)
            place = np.arange(low, high) if index is None else index[low:high]
            batches.append(pa.RecordBatch.from_arrays(run.arrays, schema=self.schema))
            if len(run.rows) == high - low:
                rows.append(place)
                continue
            rows.append(place[run.rows])
            others.append(place[run.status == OTHER])
            failed = np.flatnonzero(run.status >= 0)
            rejects += [self._reject(int(place[m]), int(run.status[m]), int(run.where[m]), schema_id) for m in failed]
        decoded = _joined(rows)
        if len(decoded):
            parts.append(DecodedPart(pa.Table.from_batches(batches, self.schema), decoded))
        return _joined(others)

    def _reject(self, index: int, status: int, where: int, schema_id: int) -> Reject:
        code, reason = avro_native.FAILURES[status]
        place = f"field {self.program.paths[where]}: " if status else ""
        return Reject(index, code, place + reason, schema_id)


@dataclass(frozen=True, slots=True)
class _Ran:
    """What a program made of some messages: columns, which message each row is, and how the others ended."""

    arrays: list[pa.Array]
    rows: NDInt
    status: NDArray[np.int8]
    where: NDArray[np.int32]


def _run(shape: Shape, values: Blobs, schema_id: int) -> _Ran:
    program = shape.program
    messages = len(values)
    size = int(values.length.sum(dtype=np.int64)) + messages  # at least what they hold: a null counts as -1
    buffers = allocate(program, messages, size)
    status = np.full(messages, OTHER, np.int8)
    where = np.zeros(messages, np.int32)
    rows = np.empty(messages, np.int64)
    counts = np.zeros(len(program.smallest), np.int64)
    symbols = np.array(program.symbols, np.int64)
    data, start, length = _read_only(values.data), _read_only(values.start), _read_only(values.length)
    shape.function(data, start, length, np.uint64(schema_id), status, where, rows, counts, symbols, *buffers)
    return _Ran(arrays(program, buffers, counts), rows[: counts[0]], status, where)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view of one type, whatever the source hands over: numba compiles a program for each type that it meets."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


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
    rejects += [
        Reject(int(i), "wrong-magic", "the first byte is not 0, so no Schema Registry client has written this message")
        for i in index[magic != 0]
    ]
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


def _joined(pieces: list[NDInt]) -> NDInt:
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.int64), *pieces])


def _chunks(length: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Runs of messages within the bounds of a chunk, at least one message each."""
    for low in range(0, len(length), CHUNK_ROWS):
        high = min(low + CHUNK_ROWS, len(length))
        sizes = length[low:high].astype(np.int64) + 1  # so that nulls (-1) count as nothing
        if sizes.sum() <= CHUNK_BYTES:
            yield low, high
            continue
        ends = np.cumsum(sizes)
        done = 0
        while done < high - low:
            before = int(ends[done - 1]) if done else 0
            upto = max(done + 1, int(np.searchsorted(ends, before + CHUNK_BYTES, side="right")))
            yield low + done, low + upto
            done = upto
