"""A writer schema made ready to decode messages: by a compiled program, or record by record."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding import avro_native, avro_values, native
from lakeward.decoding.avro_arrow import arrow_schema
from lakeward.decoding.avro_columns import allocate, arrays, growth
from lakeward.decoding.avro_native import HEADER
from lakeward.decoding.avro_program import Program, generate
from lakeward.decoding.avro_reader import DamagedError, RecordReader
from lakeward.decoding.avro_types import Record
from lakeward.decoding.code_cache import CodeCache
from lakeward.records import Blobs, DecodedPart, Reject

OTHER = np.int8(-2)
"""The status of messages that the program passed over."""
CHUNK_ROWS = 32_768
CHUNK_BYTES = 16 << 20
"""Messages are decoded in runs of at most so many bytes (one message may have more), so that offsets fit 32 bits and
the buffers stay in reach of the processor's caches."""
CHUNK_MEMORY = 512 << 20
"""Nor may their buffers be larger, where a few bytes can become many."""

NDInt = NDArray[np.int64]


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
        return Shape(program, schema, code.function(program.source, depends=_depends(), warm_up=warm_up))

    @staticmethod
    def kept(record: Record, code: CodeCache) -> bool:
        """Whether the program for ``record`` has been compiled before."""
        return code.has(generate(record).source, depends=_depends())

    def decode(
        self, values: Blobs, index: NDInt | None, schema_id: int, parts: list[DecodedPart], rejects: list[Reject]
    ) -> NDInt:
        """Decode the messages ``index`` (ascending; None: all) that are framed with ``schema_id``.

        Adds their rows to ``parts``, and those that are damaged to ``rejects``. Returns the indices of the others.
        """
        chosen = values if index is None else values.select(index)
        batches, rows, others = [], [], []
        most = min(CHUNK_BYTES, CHUNK_MEMORY // growth(self.program))
        for low, high in _chunks(chosen.length, most):
            run = _run(self, Blobs(chosen.data, chosen.start[low:high], chosen.length[low:high]), schema_id)
            place = np.arange(low, high) if index is None else index[low:high]
            batches.append(pa.RecordBatch.from_arrays(run.arrays, schema=self.schema))
            if len(run.rows) == high - low:
                rows.append(place)
                continue
            rows.append(place[run.rows])
            others.append(place[run.status == OTHER])
            rejects += self._rejects(run, place, schema_id)
        decoded = _joined(rows)
        if len(decoded):
            parts.append(DecodedPart(pa.Table.from_batches(batches, self.schema), decoded, schema_id))
        return _joined(others)

    def _rejects(self, run: _Ran, place: NDInt, schema_id: int) -> Iterator[Reject]:
        failed = np.flatnonzero(run.status >= 0)
        ends = zip(run.status[failed].tolist(), run.where[failed].tolist(), strict=True)
        for index, (status, where) in zip(place[failed].tolist(), ends, strict=True):
            code, reason = avro_native.FAILURES[status]
            field = f"field {self.program.paths[where]}: " if status else ""
            yield Reject(index, code, field + reason, schema_id)


@dataclass(frozen=True, slots=True)
class ReadShape:
    """A writer schema whose records are read one by one."""

    reader: RecordReader
    schema: pa.Schema

    @staticmethod
    def of(record: Record) -> ReadShape:
        """Make ready to read ``record``."""
        return ReadShape(RecordReader(record), arrow_schema(record))

    def decode(
        self, values: Blobs, index: NDInt | None, schema_id: int, parts: list[DecodedPart], rejects: list[Reject]
    ) -> NDInt:
        """See `Shape.decode`."""
        header = b"\0" + schema_id.to_bytes(HEADER - 1, "big")
        rows, read, others = [], [], []
        for i in range(len(values)) if index is None else index.tolist():
            payload = values.get(i)
            if payload is None or not payload.startswith(header):
                others.append(i)
                continue
            try:
                rows.append(self.reader.read(payload, HEADER))
                read.append(i)
            except DamagedError as error:
                rejects.append(Reject(i, error.code, error.reason, schema_id))
        if rows:
            columns = [
                pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), self.schema, strict=True)
            ]
            table = pa.Table.from_arrays(columns, schema=self.schema)
            parts.append(DecodedPart(table, np.array(read, np.int64), schema_id))
        return np.array(others, np.int64)


@dataclass(frozen=True, slots=True)
class _Ran:
    """What a program made of some messages: columns, which message each row is, and how the others ended."""

    arrays: list[pa.Array]
    rows: NDInt
    status: NDArray[np.int8]
    where: NDArray[np.int32]


def _depends() -> str:
    return inspect.getsource(native) + inspect.getsource(avro_native) + inspect.getsource(avro_values)


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
    return _Ran(arrays(program, shape.schema, buffers, counts), rows[: counts[0]], status, where)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view of one type, whatever the source hands over: numba compiles a program for each type that it meets."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _joined(pieces: list[NDInt]) -> NDInt:
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.int64), *pieces])


def _chunks(length: NDArray[np.int32], most: int) -> Iterator[tuple[int, int]]:
    """Runs of messages of at most ``most`` bytes, at least one message each."""
    for low in range(0, len(length), CHUNK_ROWS):
        high = min(low + CHUNK_ROWS, len(length))
        sizes = length[low:high].astype(np.int64) + 1  # so that nulls (-1) count as nothing
        if sizes.sum() <= most:
            yield low, high
            continue
        ends = np.cumsum(sizes)
        done = 0
        while done < high - low:
            before = int(ends[done - 1]) if done else 0
            upto = max(done + 1, int(np.searchsorted(ends, before + most, side="right")))
            yield low + done, low + upto
            done = upto
