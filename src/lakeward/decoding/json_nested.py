"""Reads records whose fields hold fields, by a program compiled for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding import (
    avro_native,
    avro_values,
    json_kernel,
    json_numbers,
    json_program,
    native,
    text,
)
from lakeward.decoding.avro_columns import allocate, arrays
from lakeward.decoding.code_cache import CodeCache
from lakeward.decoding.json_types import Field
from lakeward.decoding.text import SLACK
from lakeward.records import Blobs

NDInt = NDArray[np.int64]
Piece = tuple[NDArray[Any], NDArray[Any], NDArray[Any], int]


class NestedReader:
    """Reads what is usual of records of these fields.

    Args:
        fields: `json_program.programmable`.
        schema: their Arrow schema.
        sample: a record that has the order of keys which most have.
        code: keeps the compiled program.
    """

    def __init__(
        self, fields: Sequence[Field], schema: pa.Schema, sample: Mapping[str, object], code: CodeCache
    ) -> None:
        self._schema = schema
        self._program = json_program.generate(fields, sample)
        self._slack = SLACK + json_program.slack(fields)
        modules = (native, text, json_numbers, json_kernel, avro_native, avro_values)
        depends = "".join(map(inspect.getsource, modules))
        self._function: Callable[..., Any] = code.function(self._program.source, depends=depends, warm_up=self._warm_up)

    def read(self, values: Blobs, low: int, high: int) -> tuple[pa.Table, NDInt, NDInt]:
        """Read the messages ``[low, high)``: rows, the message of each, and the messages left to the reference."""
        columns, rows, unusual = self._run(self._function, values, low, high)
        return pa.Table.from_arrays(columns, schema=self._schema), rows, unusual

    def _warm_up(self, function: Callable[..., Any]) -> None:
        self._run(function, Blobs.of(()), 0, 0)

    def _run(
        self, function: Callable[..., Any], values: Blobs, low: int, high: int
    ) -> tuple[list[pa.Array], NDInt, NDInt]:
        scopes = len(self._program.smallest)
        counts = np.zeros(scopes + 1, np.int64)
        rows, unusual = np.empty(high - low, np.int64), np.empty(high - low, np.int64)
        # An item more than there can be is begun by a record that cannot be read.
        buffers = allocate(self._program, high - low, size_of(values, low, high) + SLACK)
        for data, start, length, first in padded(values, low, high, self._slack):
            function(data, start, length, first, rows, unusual, counts, *buffers)
        columns = arrays(self._program, self._schema, buffers, counts)
        return columns, rows[: counts[0]], unusual[: counts[scopes]]


def size_of(values: Blobs, low: int, high: int) -> int:
    """How many bytes the messages ``[low, high)`` have."""
    return int(np.maximum(values.length[low:high], 0).sum(dtype=np.int64))


def padded(values: Blobs, low: int, high: int, slack: int) -> Iterator[Piece]:
    """The messages ``[low, high)`` in two pieces, so that ``slack`` bytes behind each can be read.

    A piece is a buffer, where messages start in it, their lengths, and the number of the first. Those that end too
    near to the buffer's end are copied to a longer one.
    """
    start, length = values.start[low:high], values.length[low:high]
    near = start + np.maximum(length, 0) + slack > len(values.data)
    split = int(near.argmax()) if near.any() else high - low
    tail = Blobs.of([values.get(i) for i in range(low + split, high)])
    longer = np.concatenate([tail.data, np.zeros(slack, np.uint8)])
    yield read_only(values.data), read_only(start[:split]), read_only(length[:split]), low
    yield read_only(longer), read_only(tail.start), read_only(tail.length), low + split


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view of one type, whatever the source hands over: numba compiles a reader for each type that it meets."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
