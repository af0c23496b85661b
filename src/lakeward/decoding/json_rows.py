"""Messages to rows of known fields: the compiled reader first, the reference for what that one leaves."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding import json_kernel, json_numbers, json_program, json_reference, json_types, native, text
from lakeward.decoding.code_cache import CodeCache
from lakeward.decoding.json_columns import allocate, arrays, plan, slack
from lakeward.decoding.json_fields import arrow_schema
from lakeward.decoding.json_kernel import Columns, read_records
from lakeward.decoding.json_nested import NestedReader, padded, read_only, size_of
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.decoding.json_types import Field
from lakeward.records import NULL, Blobs, DecodedPart, Reject

CHUNK_ROWS = 32_768
CHUNK_BYTES = 16 << 20
"""Messages are decoded in runs of at most so many bytes (one message may have more), so that offsets fit 32 bits."""
KEPT_BYTES = 256 << 20
"""So much room for text is kept at most, of which only what was written takes memory."""
MANY, SAMPLE = 20_000, 100
"""After so many nested records a program is compiled for them, as the longest of so many looks."""

PROGRAM = '''\
"""Reads JSON records. Written by lakeward."""

from lakeward.decoding.json_kernel import read_records


def decode(data, start, length, first, plan, out):
    read_records(data, start, length, first, plan, out)
'''

NDInt = NDArray[np.int64]


class RowReader:
    """Reads records with these fields: the compiled reader first, the reference what that one leaves.

    Args:
        fields: at least one.
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
        unusual: decodes what the compiled reader leaves, as `json_reference.decode` does.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        cache_folder: Path | None,
        unusual: Callable[[bytes, Sequence[Field]], list[Any]] = json_reference.decode,
    ) -> None:
        self._unusual = unusual
        self.fields = tuple(fields)
        self.schema = arrow_schema(fields)
        self._text: NDArray[np.uint8] | None = None
        """Room for text, used again: fresh memory costs more than what is written to it."""
        self._nested = any(field.type.nested for field in fields)
        if not self._nested:
            self._plan = plan(fields)
            self._slack = slack(self._plan)
            self._reader = _compiled(cache_folder)
        self._programs = CodeCache(cache_folder) if self._nested and json_program.programmable(self.fields) else None
        self._nesting: NestedReader | None = None
        self._making: Future[NestedReader] | None = None
        self._slow = 0
        """So many nested records have been read by the reference."""

    def rows(self, values: Blobs, rejects: list[Reject]) -> list[DecodedPart]:
        """Read all messages but the null ones: one part, or none where there is no row; adds to ``rejects``."""
        read = [self.read(values, low, high, rejects) for low, high in _chunks(values.length)]
        index = np.concatenate([np.empty(0, np.int64), *(places for _, places in read)])
        return [DecodedPart(pa.concat_tables([table for table, _ in read]), index)] if len(index) else []

    def read(self, values: Blobs, low: int, high: int, rejects: list[Reject]) -> tuple[pa.Table, NDInt]:
        """Read the messages ``[low, high)``: their rows and which message each is; adds to ``rejects``."""
        if self._nested:
            usual, index, unusual = self._read_nested(values, low, high)
        else:
            out = self._run(values, low, high)
            usual = pa.Table.from_arrays(arrays(self.fields, out), schema=self.schema)
            self._text = out.text if out.text.nbytes <= KEPT_BYTES else None
            index, unusual = out.origin[: out.counts[0]], out.unusual[: out.counts[1]]
        if not len(unusual):
            return usual, index
        others, other_index = self._read_unusual(values, unusual, rejects)
        index = np.concatenate([index, other_index])
        order = np.argsort(index)
        return pa.concat_tables([usual, others]).take(order).combine_chunks(), index[order]

    def _read_nested(self, values: Blobs, low: int, high: int) -> tuple[pa.Table, NDInt, NDInt]:
        """As `NestedReader.read`; compiling takes seconds, so that only who reads many records gets a program.

        It is made beside the reading: until then the reference reads on.
        """
        if self._nesting is None:
            self._nesting = self._made(values, low, high)
        if self._nesting is not None:
            return self._nesting.read(values, low, high)
        unusual = low + np.flatnonzero(values.length[low:high] != NULL)
        self._slow += len(unusual)
        return self.schema.empty_table(), np.empty(0, np.int64), unusual

    def _made(self, values: Blobs, low: int, high: int) -> NestedReader | None:
        """The program, as soon as there is one."""
        if self._making is not None:
            return self._making.result() if self._making.done() else None
        if self._programs is None or self._slow < MANY:
            return None
        sample = _longest(values, low, min(high, low + SAMPLE))
        if sample is not None:
            self._making = _beside(partial(NestedReader, self.fields, self.schema, sample, self._programs))
        return None

    def _read_unusual(self, values: Blobs, unusual: NDInt, rejects: list[Reject]) -> tuple[pa.Table, NDInt]:
        rows, index = [], []
        for i in unusual.tolist():
            try:
                rows.append(self._unusual(values.get(i) or b"", self.fields))
                index.append(i)
            except NotDecodableError as error:
                rejects.append(Reject(i, error.code, error.reason))
        columns = [pa.array([row[g] for row in rows], column.type) for g, column in enumerate(self.schema)]
        return pa.Table.from_arrays(columns, schema=self.schema), np.array(index, np.int64)

    def _run(self, values: Blobs, low: int, high: int) -> Columns:
        """Run the compiled reader. Records that end too near to the buffer's end are copied to a longer one first."""
        text, self._text = self._text, None
        out = allocate(self.fields, high - low, size_of(values, low, high), text)
        for data, start, length, first in padded(values, low, high, self._slack):
            self._reader(data, start, length, first, self._plan, out)
        return out


@cache
def _compiled(cache_folder: Path | None) -> Callable[..., Any]:
    """The compiled reader, one a process: fields are data to it, so that hundreds of tables share its code."""
    if cache_folder is None:
        return read_records
    depends = "".join(map(inspect.getsource, (native, text, json_types, json_numbers, json_kernel)))
    return CodeCache(cache_folder).function(PROGRAM, depends=depends, warm_up=_warm_up)


def _warm_up(reader: Callable[..., Any]) -> None:
    """Compile or load it: the types of its arguments are the same for all fields."""
    nothing, data = Blobs.of(()), read_only(np.zeros(0, np.uint8))
    reader(data, read_only(nothing.start), read_only(nothing.length), 0, plan(()), allocate((), 0, 0))


def _beside(make: Callable[[], NestedReader]) -> Future[NestedReader]:
    """What ``make`` will have made, on a thread that nobody waits for at the end."""
    future: Future[NestedReader] = Future()

    def run() -> None:
        try:
            future.set_result(make())
        except BaseException as error:  # noqa: BLE001 -- raised again where the program is wanted
            future.set_exception(error)

    threading.Thread(target=run, name="compiling", daemon=True).start()
    return future


def _longest(values: Blobs, low: int, high: int) -> dict[str, object] | None:
    """The longest record among some messages: it has most of the keys."""
    for i in sorted(range(low, high), key=lambda i: -values.length[i]):
        try:
            return json_reference.parse(values.get(i) or b"")
        except NotDecodableError:
            continue
    return None


def _chunks(length: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Runs of messages within the bounds of a chunk, at least one message each."""
    ends = np.cumsum(np.maximum(length, 0), dtype=np.int64)
    low = 0
    while low < len(length):
        before = int(ends[low - 1]) if low else 0
        fitting = int(np.searchsorted(ends, before + CHUNK_BYTES, side="right"))
        high = min(max(low + 1, fitting), low + CHUNK_ROWS)
        yield low, high
        low = high
